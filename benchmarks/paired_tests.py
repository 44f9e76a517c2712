"""Paired tests of NDCG@10 between rows of comparisons, each pair named, adjusted by Holm over all of them.

python benchmarks/paired_tests.py saved/comparison/beauty [MORE OUTPUTS] --pairs SIDMLP:TIGER-constrained SASRec:TIGER

OUTPUTs are those of `recbole-sid compare`; a row of several seeds counts with each user's mean over them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_sid.comparison.statistics import holm, paired_tests
from recbole_sid.comparison.summary import aligned, mean_ndcg
from recbole_sid.errors import InputError
from recbole_sid.evaluation.runs import find_runs
from recbole_sid.evaluation.tables import markdown_table


def rows_of(outputs: Sequence[Path]) -> dict[str, pd.Series]:
    """Return row -> NDCG@10 by (user, target), over all seeds that the outputs hold."""
    files: dict[str, dict[int, Path]] = {}
    for run in find_runs([output / "runs" for output in outputs]):
        seeds, seed = files.setdefault(run.name, {}), run.result["seed"]
        if seed in seeds and seeds[seed].parent.name != run.per_user.parent.name:
            raise InputError(f"Two rows are called {run.result['name']}, seed {seed}: leave out an output.")
        seeds[seed] = run.per_user
    return {row: mean_ndcg(list(seeds.values())) for row, seeds in files.items()}


def main() -> None:
    """Test the pairs and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", type=Path)
    parser.add_argument("--pairs", nargs="+", required=True, metavar="ROW:ROW")
    arguments = parser.parse_args()
    try:
        rows = rows_of(arguments.outputs)
    except InputError as error:
        parser.error(str(error))
    pairs = [pair.partition(":")[::2] for pair in arguments.pairs]
    for row in (row for pair in pairs for row in pair):
        if row not in rows:
            parser.error(f"there is no row '{row}': one of {', '.join(sorted(rows))}.")
    found, shares = [], []
    for first, second in pairs:
        values = aligned({first: rows[first], second: rows[second]})
        found += paired_tests(values, second)
        shares.append(values[first].mean() / values[second].mean())
    adjusted = holm(np.array([test["t_test"] for test in found]))
    cells = [
        {
            "": f"{test['model']} against {test['baseline']}",
            "Share": f"{share:.3f}",
            "Difference": f"{test['difference']:+.4f}",
            "95% interval": f"{test['ci_low']:.4f} to {test['ci_high']:.4f}",
            "p": f"{test['t_test']:.1e}",
            "adjusted by Holm": f"{by_holm:.2g}",
        }
        for test, share, by_holm in zip(found, shares, adjusted, strict=True)
    ]
    print(markdown_table(cells, left=[""]))


if __name__ == "__main__":
    main()
