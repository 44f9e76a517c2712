"""The commands of ``recbole-sid``, one module each; registered in ``recbole_sid/cli.py``."""
