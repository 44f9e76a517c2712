"""Trainers: true resume and best checkpoints for every SID model, and distillation from a frozen teacher."""
