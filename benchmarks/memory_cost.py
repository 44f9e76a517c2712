"""What a memory costs a trained model: CPU time of ranking batches with it and without, in turns.

python benchmarks/memory_cost.py CHECKPOINT... [--batch 32] [--rounds 24]

CHECKPOINTs are of models trained with `memory: transitions`. One thread; batches are of the test split; medians over
rounds, and of the ratios.
"""

from __future__ import annotations

import argparse
from itertools import cycle, islice
from statistics import median
from time import process_time
from typing import Any

import torch

from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.quick_start import load_data_and_model
from recbole_sid.util.progress import progress


def cpu_ms(model: Any, interaction: Any) -> float:
    """Return the CPU time in milliseconds of ranking one batch."""
    started = process_time()
    model.retrieve(interaction)
    return 1000 * (process_time() - started)


def measure(file: str, batch: int, rounds: int) -> dict[str, Any]:
    """Return the row of one checkpoint."""
    _, model, _, _, _, test = load_data_and_model(file)
    model.eval()
    memory = model.memory
    of_each: dict[str, list[float]] = {"with": [], "without": []}
    batches = [interaction[:batch] for interaction, *_ in islice(test, rounds)]
    for number, interaction in enumerate(progress(islice(cycle(batches), rounds + 1), "rounds", True, "round")):
        for name, its_memory in (("with", memory), ("without", None)):
            model.memory = its_memory
            spent = cpu_ms(model, interaction)
            if number:  # the first compiles, and fills caches
                of_each[name].append(spent)
    ratio = median(one / other for one, other in zip(*of_each.values(), strict=True))
    return {"model": type(model).__name__, **{name: median(found) for name, found in of_each.items()}, "ratio": ratio}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=24)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(markdown_table([measure(file, arguments.batch, arguments.rounds) for file in arguments.checkpoints]))


if __name__ == "__main__":
    main()
