"""Memory and time of ranking and counting hits, by the number of items in the catalogue.

python benchmarks/evaluation.py [--items 25000 1000000] [--batch 256]

SID-MLP at the paper's sizes with random weights, one thread, natural histories: retrieve the top 50, cut them to lists
and count hits, as evaluation does. Beside it what RecBole's matrix of scores [batch, items] alone would take.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import torch
from torch.utils.benchmark import Timer

from recbole_sid.bench.data import Workload
from recbole_sid.bench.timing import peak_megabytes
from recbole_sid.evaluation.retrieved import Retrieved, hits_and_positives

CPU = torch.device("cpu")


def evaluate(model: Any, interaction: Any, targets: torch.Tensor) -> torch.Tensor:
    """Return the hits of a batch as RecBole's evaluator takes them."""
    lists = Retrieved(*model.retrieve(interaction), (len(interaction), model.n_items)).top_lists(10)
    return hits_and_positives(lists, torch.arange(len(interaction)), targets, model.n_items)


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[25_000, 1_000_000])
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| items | decoder | ms a batch | growth of memory, MB | a matrix of scores would take, MB |")
    print("|---:|---|---:|---:|---:|")
    for n_items in options.items:
        workload = Workload.synthetic(n_items, beam_size=50, device=CPU, seed=0)
        interaction = workload.batches("natural", options.batch, 1)[0]
        targets = torch.randint(1, n_items + 1, (options.batch,))
        for decoding in ("beam", "exact"):
            model = workload.model("SIDMLP", decoding=decoding)
            call = partial(evaluate, model, interaction, targets)
            call()  # compiles
            seconds = Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=2).median
            growth = peak_megabytes(call, CPU)
            matrix = options.batch * n_items * 4 / 1e6
            print(
                f"| {n_items:,} | {decoding} | {seconds * 1e3:.0f} | {growth:.0f} | {matrix:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
