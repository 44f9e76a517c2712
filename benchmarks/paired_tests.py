"""Paired tests of NDCG@10 between rows of comparisons, each pair named, adjusted by Holm over all of them.

python benchmarks/paired_tests.py saved/comparison/beauty [MORE OUTPUTS] --pairs SIDMLP:TIGER-constrained SASRec:TIGER \
    [--by popularity category]

OUTPUTs are those of `recbole-sid compare`; a row of several seeds counts with each user's mean over them. With --by, a
table more for each: the same tests among the users whose target occurs so often in training, or whose instance is of
this category (memorization, generalization, neither: `recbole-sid analyze`), adjusted by Holm over that table. The data
is read where the runs had it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_sid.comparison.groups import CATEGORY, POPULARITY, Groups, groups_of, runs_by_row
from recbole_sid.comparison.statistics import holm, paired_tests
from recbole_sid.comparison.summary import aligned, mean_ndcg
from recbole_sid.errors import InputError
from recbole_sid.evaluation.runs import FinishedRun
from recbole_sid.evaluation.tables import markdown_table

Pair = tuple[str, str]
_BY = (CATEGORY, POPULARITY)


def main() -> None:
    """Test the pairs and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", type=Path)
    parser.add_argument("--pairs", nargs="+", required=True, type=_pair, metavar="ROW:ROW")
    parser.add_argument("--by", nargs="+", default=(), choices=_BY)
    arguments = parser.parse_args()
    try:
        print("\n\n".join(tables(runs_by_row(arguments.outputs), arguments.pairs, arguments.by)))
    except InputError as error:
        parser.error(str(error))


def tables(runs: Mapping[str, Sequence[FinishedRun]], pairs: Sequence[Pair], by: Sequence[str]) -> Iterator[str]:
    """Yield the table over all users, and one for each way to tell them apart.

    Args:
        runs: row -> its runs, of which each user's mean counts.
        pairs: rows, each with the one that it is tested against.
        by: of `CATEGORY` and `POPULARITY`.

    Raises:
        InputError: if a row is not there, or two were not evaluated on the same users.
    """
    named = dict.fromkeys(row for pair in pairs for row in pair)
    for row in named:
        if row not in runs:
            raise InputError(f"There is no row '{row}': one of {', '.join(sorted(runs))}.")
    rows = {row: mean_ndcg([run.per_user for run in runs[row]]) for row in named}
    yield _table(
        [
            {
                "": f"{first} against {second}",
                **_seeds(len(runs[first]), len(runs[second])),
                **_test(aligned({first: rows[first], second: rows[second]}), second, _users(rows[first])),
            }
            for first, second in pairs
        ]
    )
    if by:
        groups = groups_of(next(iter(runs.values()))[0].result)
        for name in by:
            yield _table(list(_by_group(rows, pairs, groups, name)))


def _by_group(rows: Mapping[str, pd.Series], pairs: Sequence[Pair], groups: Groups, by: str) -> Iterator[dict]:
    for first, second in pairs:
        values = aligned({first: rows[first], second: rows[second]})
        place = groups.instances.get_indexer(rows[first].index)
        if len(place) != len(groups.instances) or (place < 0).any():
            raise InputError(f"{first} was not evaluated on the test instances of the data as it is now: run it again.")
        for name, mask in groups.masks[by].items():
            inside = {row: of[mask[place]] for row, of in values.items()}
            tested = _test(inside, second, _users(rows[first])[mask[place]])
            yield {"": f"{first} against {second}", by: name, "Instances": int(mask.sum()), **tested}


def _users(row: pd.Series) -> np.ndarray:
    return row.index.get_level_values("user").to_numpy()


def _test(values: Mapping[str, np.ndarray], baseline: str, users: np.ndarray) -> dict[str, Any]:
    """Return the cells of one test; there is none of a single user, or where every user is served alike."""
    model = next(iter(values))
    mean, reference = values[model].mean(), values[baseline].mean()
    cells = {
        "NDCG@10": f"{mean:.4f}",
        "against": f"{reference:.4f}",
        "Share": f"{mean / reference:.3f}" if reference else "",
        "Difference": f"{mean - reference:+.4f}",
    }
    if len(np.unique(users)) < 2 or np.array_equal(values[model], values[baseline]):
        return cells | {"95% interval": "", "p": None}
    (test,) = paired_tests(values, baseline, users=users)
    return cells | {"95% interval": f"{test['ci_low']:.4f} to {test['ci_high']:.4f}", "p": test["t_test"]}


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table of tests, their p-values adjusted over it."""
    p_values = [row["p"] for row in rows if row["p"] is not None]
    adjusted = iter(holm(np.array(p_values)))
    cells = [
        {**row, "p": f"{row['p']:.1e}", "adjusted by Holm": f"{next(adjusted):.2g}"} if row["p"] is not None else row
        for row in rows
    ]
    return markdown_table([{**row, "adjusted by Holm": row.get("adjusted by Holm")} for row in cells], ("", *_BY))


def _seeds(first: int, second: int) -> dict[str, str]:
    """Return how many seeds the two rows have."""
    return {"Seeds": str(first) if first == second else f"{first} and {second}"}


def _pair(word: str) -> Pair:
    first, _, second = word.partition(":")
    if not first or not second or first == second:
        raise argparse.ArgumentTypeError(f"'{word}' is not two different rows as ROW:ROW.")
    return first, second


if __name__ == "__main__":
    main()
