"""Targets per second of training TIGER on real sequences: prefix by prefix, and in one pass a sequence.

python benchmarks/teacher.py --data_path=DIR [--dataset=scientific] [--tuned] [--steps=8] [--profile]

A step is what the trainer does: forward, backward, clipping, AdamW. Batches come from the training loader, bucketed by
length; those of windows have as many sequences as hold about the targets of a batch of prefixes. The rows take steps in
turns, and what counts is the CPU time of this process, so that other work on the machine hardly does. One thread.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from interleaved import take_in_turn
from torch.profiler import ProfilerActivity, profile

from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.data.windows import WINDOW_FIELD
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.quick_start import make_trainer

TUNED = Path(__file__).resolve().parent.parent / "properties" / "tuned"
PARTS = {
    "products of layers": ("mm", "addmm"),
    "products of attention": ("bmm", "baddbmm"),
    "softmax": ("_softmax", "_softmax_backward_data"),
    "cross entropy": ("_log_softmax", "_log_softmax_backward_data", "nll_loss_forward", "nll_loss_backward"),
    "random bits": ("random_", "ge", "bernoulli_"),
    "copies": ("copy_", "cat", "index", "index_select"),
    "ReLU": ("clamp_min", "threshold_backward"),
    "other elementwise": ("mul", "mul_", "add", "add_", "pow", "sum", "mean", "rsqrt", "div", "neg", "fill_", "zero_"),
}


class Row:
    """One line of the table: takes training steps and counts what they did."""

    def __init__(self, name: str, settings: dict[str, Any], files: list[str]) -> None:
        self.name = name
        config = Config("TIGER", settings["dataset"], config_file_list=files, config_dict=settings)
        data = data_preparation(config, create_dataset(config))[0]
        self.trainer = make_trainer(config, data)
        self.trainer.start_stage(self.trainer.stages()[0], data)
        self.trainer.model.train()
        self.data, self.batches = data, iter(data)
        self.seconds, self.targets, self.n_steps = 0.0, 0, 0

    def step(self) -> None:
        """Train on the next batch."""
        batch = next(self.batches)
        started = time.process_time()
        self.train(batch)
        self.seconds += time.process_time() - started
        self.targets += int(batch[WINDOW_FIELD].sum()) if WINDOW_FIELD in batch else len(batch)
        self.n_steps += 1

    def train(self, batch: Any) -> None:
        """Do what the trainer does with a batch."""
        self.trainer.optimizer.zero_grad(set_to_none=True)
        (self.trainer.batch_loss(batch) * self.trainer.batch_weight(batch)).backward()
        self.trainer._step()

    def forget(self) -> None:
        """Do not count what was done so far."""
        self.seconds, self.targets, self.n_steps = 0.0, 0, 0


def shares(row: Row, n_steps: int) -> dict[str, str]:
    """Return which share of the time each part of a step takes."""
    batches = [next(row.batches) for _ in range(n_steps)]
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for batch in batches:
            row.train(batch)
    times: Counter[str] = Counter()
    part_of = {f"aten::{name}": part for part, names in PARTS.items() for name in names}
    for event in profiled.key_averages():
        times[part_of.get(event.key, "AdamW" if event.key.startswith("aten::_foreach") else "rest")] += (
            event.self_cpu_time_total
        )
    return {part: f"{times[part] / times.total():.0%}" for part in (*PARTS, "AdamW", "rest")}


def rows_of(options: argparse.Namespace) -> list[Row]:
    """Return a row for each way to train."""
    files = [str(TUNED / options.dataset / "TIGER.yaml")] if options.tuned else []
    settings = {
        "dataset": options.dataset,
        "data_path": options.data_path,
        "use_gpu": False,
        "state": "ERROR",
        "tokenizer": "random",
        "features": ["collaborative"],
        "codebook_sizes": [256, 256, 256],
        "MAX_ITEM_LIST_LENGTH": options.longest,
    }
    prefixes = Row("bidirectional encoder, prefix by prefix", settings, files)
    n_users = len(prefixes.data._dataset.inter_feat[prefixes.data._dataset.uid_field].unique())
    per_user = len(prefixes.data._dataset) / n_users
    size = max(1, round(prefixes.data.step / per_user))
    windows = {**settings, "encoder_attention": "causal", "train_batch_size": size}
    return [prefixes, Row("causal encoder, one pass a sequence", windows, files)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--dataset", default="scientific")
    parser.add_argument("--tuned", action="store_true", help="the sizes of properties/tuned, else the paper's")
    parser.add_argument("--longest", type=int, default=20, help="MAX_ITEM_LIST_LENGTH")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--profile", action="store_true", help="what the parts of a step take")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = rows_of(options)
    take_in_turn(rows, options.steps)
    base = rows[0].targets / rows[0].seconds
    cells = [
        {
            "training": row.name,
            "targets a step": f"{row.targets / row.n_steps:.0f}",
            "targets/s": f"{row.targets / row.seconds:,.0f}",
            "ratio": f"{row.targets / row.seconds / base:.2f}x",
            **(shares(row, 3) if options.profile else {}),
        }
        for row in rows
    ]
    sizes = "tuned" if options.tuned else "the paper's"
    print(f"{options.dataset}, {sizes} sizes, 1 thread, {options.steps} steps a row.\n")
    print(markdown_table(cells, left=["training"]))


if __name__ == "__main__":
    main()
