"""What training by several processes costs and gains: one process, and two of one thread each, over gloo.

python benchmarks/ddp.py --data_path=DIR [--dataset=scientific] [--model=TIGER] [--size=small] [--steps=20] [--rounds=3]

A step is the trainer's: forward, backward, sums of gradients, AdamW, on batches from the training loader, the same for
one process and for two. Rounds take turns. Of two processes a third kind of step keeps its gradients back, so that the
difference is what the sums cost beside the computation, and the sum of one vector of as many numbers is timed alone.
Seconds are of the clock, and of this process's CPU, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.distributed.joining import join
from recbole_sid.distributed.launch import launch
from recbole_sid.distributed.place import Processes
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.quick_start import make_trainer

_WARM = 3


def measure(model: str, settings: dict[str, Any], steps: int) -> dict[str, float]:
    """Return seconds and CPU seconds of a step in this group, with and without sums, and bytes of the gradients."""
    torch.set_num_threads(1)
    config = Config(model, settings["dataset"], config_dict=settings)
    group = join(config["device"])
    train = data_preparation(config, create_dataset(config))[0]
    trainer = make_trainer(config, train)
    trainer.start_stage(trainer.stages()[0], train)
    trainer.model.train()
    batches = iter(train)
    n_bytes = sum(
        weight.numel() * weight.element_size() for weight in trainer.model.parameters() if weight.requires_grad
    )

    def step() -> None:
        trainer.optimizer.zero_grad(set_to_none=True)
        batch = next(batches)
        trainer._backward(trainer.batch_loss(batch) * trainer.batch_weight(batch))
        trainer._step()

    def step_alone() -> None:
        with trainer._gradients_kept_back():
            step()

    vector = torch.zeros(n_bytes // 4)
    found = {"bytes": float(n_bytes)}
    kinds: list[tuple[str, Callable[[], Any]]] = [("step", step)]
    if group.size > 1:
        kinds += [("kept back", step_alone), ("sum alone", lambda: group.sum(vector))]
    for name, work in kinds:
        for _ in range(_WARM):
            work()
        group.barrier()
        clock, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            work()
        found[name] = (time.perf_counter() - clock) / steps
        found[f"{name}, CPU"] = (time.process_time() - cpu) / steps
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--dataset", default="scientific")
    parser.add_argument("--model", default="TIGER")
    parser.add_argument("--size", default="small", help="paper: the property file's own")
    parser.add_argument("--train_batch_size", type=int)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    settings: dict[str, Any] = {"use_gpu": False, "show_progress": False, "state": "WARNING", "epochs": 1}
    settings |= {"data_path": given.data_path, "dataset": given.dataset}
    if given.size != "paper":
        settings["size"] = given.size
    if given.train_batch_size:
        settings["train_batch_size"] = given.train_batch_size
    rounds: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(given.rounds):
        for number, found in rounds.items():
            found.append(launch(measure, (given.model, settings, given.steps), Processes(number, number)))
    rows = []
    for number, found in rounds.items():
        kept = {name: median(each[name] for each in found) for name in found[0]}
        rows.append({"processes": number, **{name: f"{value:.4g}" for name, value in kept.items()}})
    print(markdown_table([{**dict.fromkeys(rows[-1], ""), **row} for row in rows]), flush=True)
    one, two = ({name: median(each[name] for each in found) for name in found[0]} for found in rounds.values())
    for unit in ("", ", CPU"):
        step, alone = two[f"step{unit}"], two[f"kept back{unit}"]
        print(
            f"{'clock' if not unit else 'CPU'}: two processes take {step / one[f'step{unit}']:.3f} of one's step "
            f"(ideal .5); sums of gradients are {(step - alone) / step:.1%} of it"
        )


if __name__ == "__main__":
    main()
