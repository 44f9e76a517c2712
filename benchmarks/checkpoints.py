"""How fast trained models evaluate, against each other, in interleaved rounds.

python benchmarks/checkpoints.py NAME=CHECKPOINT... [--rounds 5] [--threads 1]

Users a second of the whole test evaluation (histories, search, ranking, metrics), medians over rounds, and the ratio
to the first model. CHECKPOINTs are of ours or RecBole's, trained on one dataset.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

import torch

from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.evaluation.throughput import users_per_second
from recbole_sid.quick_start import count_parameters, load_data_and_model
from recbole_sid.registry import get_trainer
from recbole_sid.util.progress import progress


def load(file: str) -> tuple[Any, Any]:
    """Return a trainer that holds the model of a checkpoint, and the loader of the test split."""
    config, model, _, train, _, test = load_data_and_model(file)
    trainer = get_trainer(config)(config, model)
    trainer.eval_collector.data_collect(train)
    return trainer, test


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = {name: load(file) for name, _, file in (word.partition("=") for word in arguments.checkpoints)}
    for trainer, test in models.values():
        users_per_second(trainer, test, repeats=1)  # compiles, and fills caches
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for _ in progress(range(arguments.rounds), "rounds", True, "round"):
        for name, (trainer, test) in models.items():
            speeds[name].append(users_per_second(trainer, test, repeats=1))
    first = next(iter(speeds.values()))
    rows = [
        {
            "model": name,
            "parameters": count_parameters(models[name][0].model),
            "users_per_s": median(found),
            "times the first": median(own / other for own, other in zip(found, first, strict=True)),
        }
        for name, found in speeds.items()
    ]
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
