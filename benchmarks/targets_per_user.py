"""What the number of targets a user does to the figures of a split by time.

python benchmarks/targets_per_user.py saved/comparison/time-ml-100k [MORE OUTPUTS]

Of the finished runs of `recbole-sid compare`, NDCG@10 and Recall@10 over all targets (each user counts as often as they
act), the mean of the users' means (each user counts once), and over each user's first target.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.comparison.groups import runs_by_row
from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import rank_metrics
from recbole_sid.evaluation.runs import FinishedRun, read_per_user
from recbole_sid.evaluation.tables import markdown_table

_METRICS = ("ndcg@10", "recall@10")


def row_of(name: str, runs: list[FinishedRun]) -> dict[str, Any]:
    """Return the means over the runs (seeds) of one row."""
    found = [_figures(run) for run in runs]
    cells = {key: f"{np.mean([figures[key] for figures in found]):.4f}" for key in found[0]}
    frame = read_per_user(runs[0].per_user, ("user",))
    return {"Model": name, **cells, "Targets": len(frame), "Users": frame["user"].nunique(), "Seeds": len(runs)}


def _figures(run: FinishedRun) -> dict[str, float]:
    frame = read_per_user(run.per_user, ("user", "rank"))
    values = pd.DataFrame(rank_metrics(frame["rank"].to_numpy(), [10]))[list(_METRICS)]
    by_user = values.groupby(frame["user"].to_numpy())
    parts = {"all targets": values, "users' means": by_user.mean(), "first targets": by_user.first()}
    return {f"{metric} {name}": float(part[metric].mean()) for name, part in parts.items() for metric in _METRICS}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", type=Path)
    try:
        found = runs_by_row(parser.parse_args().outputs)
    except InputError as error:
        parser.error(str(error))
    print(markdown_table([row_of(name, runs) for name, runs in found.items()], left=["Model"]))


if __name__ == "__main__":
    main()
