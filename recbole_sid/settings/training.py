"""Groups of keys that several models have: how they are trained, how they are searched, how students are distilled."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recbole_sid.decoding import DECODERS
from recbole_sid.decoding.children import NORMALISERS
from recbole_sid.errors import InputError
from recbole_sid.memory.numbers import LARGEST, LEAST_PSEUDO_COUNTS, ROW_LIMIT
from recbole_sid.nn.item_encoder import MIXINGS
from recbole_sid.settings.declared import Settings, declare


@dataclass(frozen=True)
class TrainingSettings(Settings):
    """Keys of `SIDTrainer`."""

    epochs: int = declare(100)
    train_batch_size: int = declare(256)
    learner: str = declare("adamw")
    learning_rate: float = declare(0.001)
    weight_decay: float = declare(0.05)
    lr_scheduler: str = declare("cosine", "constant, linear or cosine, after the warm-up.")
    schedule_epochs: int | None = declare(
        None, "Epochs that the schedule is laid out for, where training ends before it does; empty: those of training."
    )
    warmup_steps: int = declare(0, least=0)
    clip_grad_norm: dict[str, Any] | None = declare({"max_norm": 1.0})
    accumulation_steps: int = declare(1, "Batches a step of the optimizer: large batches in the memory of small ones.")
    decay_norms_and_biases: bool = declare(True, "False leaves weights of one dimension out of weight_decay.")
    compile_model: bool = declare(
        False, "Train by torch.compile: minutes to compile, faster steps after; for a GPU.", volatile=True
    )
    capture_training: bool = declare(
        False, "On a GPU, loss and gradients of a batch are one captured CUDA graph: faster, same sums.", volatile=True
    )
    stopping_step: int = declare(20, least=0)
    train_neg_sample_args: Any = declare(None)


@dataclass(frozen=True)
class MemorySettings(Settings):
    """A memory beside a SID model. Its numbers, if empty, are chosen on validation after training."""

    memory: str = declare(
        "none",
        "transitions: rank by which item followed which in training, and by the model where that says little.",
        choices=("none", "transitions"),
    )
    memory_hops: int | None = declare(None, "Pairs up to so many positions apart count.", most=LARGEST)
    memory_hop_decay: float | None = declare(None, "A pair one position further apart counts so much of it.", most=1)
    memory_window: int | None = declare(None, "So many last items of the history are looked up.", most=LARGEST)
    memory_window_decay: float | None = declare(None, "An item one position further back weighs so much of it.", most=1)
    memory_pseudo_counts: float | None = declare(
        None,
        "Of the model in each row: the more, the less a few observations weigh.",
        least=LEAST_PSEUDO_COUNTS,
        most=LARGEST,
    )
    memory_text_weight: float | None = declare(
        None,
        "An item that is like another by its features counts as if it had followed it so often, times their cosine "
        "cubed.",
        most=LARGEST,
    )
    memory_sharpness: float | None = declare(
        None, "Scores are log p + sharpness x log p of the model alone; 0 is the plain mixture.", most=1000
    )
    memory_row_limit: int = declare(
        ROW_LIMIT, "So many successors of an item are kept, those that count most; the rest is left to the model."
    )


@dataclass(frozen=True)
class DecodingSettings(MemorySettings):
    """How the best items are found."""

    decoding: str = declare(
        "beam",
        "beam, exact (the true top beam_size of the catalogue) or full (by scoring all items).",
        choices=lambda: DECODERS,
    )
    normaliser: str = declare(
        "children",
        "A prefix's probability is shared among its valid children, or among all codes.",
        choices=lambda: NORMALISERS,
    )
    captured: bool = declare(
        True, "On a GPU, beam search runs as captured CUDA graphs: one for each size of batches.", volatile=True
    )
    full_sort_items: int = declare(
        2000, "Up to this many items, full_sort_predict scores all of them.", least=0, volatile=True
    )


@dataclass(frozen=True)
class GeneratorSettings(TrainingSettings, DecodingSettings):
    """Keys of models that write codes by themselves, and may be teachers."""

    d_model: int = declare(128, "Width of states and token embeddings.")
    code_init: str | None = declare(
        "random",
        "Code embeddings start at random, or from the features of the items that have them (features).",
        choices=("random", "features"),
    )
    constrained: bool = declare(True, "Search valid semantic IDs only; False searches all code combinations.")


@dataclass(frozen=True)
class ItemEncoderSettings(Settings):
    """The encoder of items (`nn.item_encoder.ItemEncoder`)."""

    item_layers: int = declare(3, "Item encoder: layers.")
    item_ffn_size: int = declare(256, "Their hidden width.")
    item_dropout_prob: float = declare(0.1, below=1)
    item_mixing: str = declare(
        "position",
        "position (a learned matrix over positions, and the mean) or attention.",
        choices=MIXINGS,
    )


@dataclass(frozen=True)
class ReadoutSettings(Settings):
    """Readout and level heads (`nn.readout.SIDMLPDecoder`)."""

    attention_heads: int = declare(4, "Heads of the readout.")
    attention_dim: int = declare(384, "Inner width of the readout.")
    query_from_last: bool = declare(
        False, "Queries from the mean and the last state, in place of the mean. Not in the paper."
    )
    ffn_size: int = declare(1024, "Feed-forward width of the readout.")
    head_hidden: int = declare(512, "Hidden width of the level heads.")
    head_layers: int = declare(1, "Hidden layers of a head.")
    dropout_prob: float = declare(0.2, below=1)
    compiled: bool = declare(
        True, "Decode with the compiled kernels on the CPU, if the extra `fast` is installed.", volatile=True
    )

    def check(self) -> None:
        super().check()
        if self.attention_dim % self.attention_heads:
            raise InputError(
                f"attention_dim={self.attention_dim} must be a multiple of attention_heads={self.attention_heads}."
            )


@dataclass(frozen=True)
class TeacherSettings(Settings):
    """A teacher, and how it is learnt from."""

    teacher_path: str | None = declare(
        None, "Checkpoint of the teacher; empty: train one first, or reuse the one that matches.", file=True
    )
    teacher_model: str = declare("TIGER", "Model class of the teacher when there is no teacher_path.")
    teacher_config: dict[str, Any] | None = declare({}, "Its settings, over those of its property file.")
    distill_cache: str | None = declare(
        "none",
        "none: run the teacher online; memory or disk: once, in half precision.",
        choices=("none", "memory", "disk"),
        volatile=True,
    )
    distill_cache_dir: str | None = declare(
        None, "Folder of the disk cache; empty: checkpoint_dir/distill_cache.", volatile=True
    )
    alpha: float = declare(0.7, most=1, help="Weight of the teacher's distribution against the true code.")
    temperature: float = declare(1.0, "Temperature of teacher and student in the distillation loss.")

    def check(self) -> None:
        super().check()
        if not self.temperature > 0:
            raise InputError(f"temperature={self.temperature} must be above 0.")


@dataclass(frozen=True)
class StudentSettings(TeacherSettings, ReadoutSettings, TrainingSettings, DecodingSettings):
    """Keys of every student."""

    student_path: str | None = declare(None, "Student checkpoint to start from.", file=True)
    distill_stages: Any = declare(None, "Stages to train, in order; empty: all but joint.")
    query_per_level: bool = declare(
        False, "A query and context for each level, in place of one for all. Not in the paper."
    )
    encoder_dtype: str = declare(
        "float32",
        "Of the encoder's products in inference: float32 or bfloat16.",
        choices=("float32", "bfloat16"),
    )
    epochs: int = 200
    train_batch_size: int = 512
    learning_rate: float = declare(0.001, "The paper searches 1e-5 to 5e-4 over 200 to 300 epochs.")
    weight_decay: float = 0.0001
    full_sort_items: int = 50000
