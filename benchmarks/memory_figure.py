"""What a memory and a model each bring: one picture and one table of the rows of finished comparisons.

python benchmarks/memory_figure.py saved/comparison/scientific [MORE OUTPUTS] [--output saved/memory] \
    --rows SASRec "TransitionMemory=the memory" SIDMLPHybrid SIDMLPHybrid-memory [--users_per_s SASRec=2270 ...]

Left: NDCG@10 on memorization against generalization (bars: 95% intervals over users). Middle: NDCG@10 by how often the
target occurs in training. Right: NDCG@10 against users per second of whole evaluations: as the runs recorded it, unless
--users_per_s gives it for some rows (measured by benchmarks/checkpoints.py, say); then the others are left out. A row
of several seeds counts with each user's mean over them. ROW=LABEL renames a row; a label that is another's followed by
"memory" shares its colour and marker, filled. Writes OUTPUT.png, .pdf and .svg and prints the numbers; the data is read
where the runs had it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from recbole_sid.comparison.groups import CATEGORY, NEVER, POPULARITY, Groups, groups_of, runs_by_row
from recbole_sid.errors import InputError
from recbole_sid.evaluation.runs import FinishedRun
from recbole_sid.evaluation.style import PAGE, colour, legend_below, log_axis, marker, new_figure, styled, write_figure
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.generalization.per_instance import metrics_by_model

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NDCG, RECALL = "ndcg@10", "recall@10"
MEMORIZATION, GENERALIZATION = "memorization", "generalization"
_Z = 1.959964  # half the width of a 95% interval in standard errors


class Row(NamedTuple):
    """What a row of a comparison did on the test instances, each user's mean over seeds.

    Attributes:
        label: its name in picture and table.
        seeds: how many.
        ndcg, recall: at 10, float [n].
        users_per_s: mean over seeds; None: not to be shown.
    """

    label: str
    seeds: int
    ndcg: np.ndarray
    recall: np.ndarray
    users_per_s: float | None


class Values(NamedTuple):
    """What is drawn of a row.

    Attributes:
        label: its name.
        ndcg: at 10, of all instances.
        by_category: name -> mean and half of its 95% interval, NaN where that is not known.
        by_popularity: how often targets occur in training -> mean.
        users_per_s: None: not to be shown.
    """

    label: str
    ndcg: float
    by_category: dict[str, tuple[float, float]]
    by_popularity: dict[str, float]
    users_per_s: float | None


def main() -> None:
    """Draw the picture and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="+", type=Path)
    parser.add_argument("--rows", nargs="+", default=(), metavar="ROW[=LABEL]", help="in this order; otherwise all")
    parser.add_argument("--users_per_s", nargs="+", default=(), type=_speed, metavar="ROW=NUMBER")
    parser.add_argument("--output", type=Path, default=Path("saved") / "memory", help="without ending")
    arguments = parser.parse_args()
    try:
        runs = runs_by_row(arguments.outputs)
        groups = groups_of(next(iter(runs.values()))[0].result)
        rows = measured(runs, groups, dict(_labelled(word) for word in arguments.rows), dict(arguments.users_per_s))
        draw([values_of(row, groups) for row in rows], arguments.output)
    except InputError as error:
        parser.error(str(error))
    print(f"{table(rows, groups)}\n\nWritten: {arguments.output}.png, .pdf, .svg")


def measured(
    runs: Mapping[str, Sequence[FinishedRun]], groups: Groups, labels: Mapping[str, str], speeds: Mapping[str, float]
) -> list[Row]:
    """Return what the rows in `labels` (all, if it is empty) did on the instances of `groups`.

    Args:
        runs: row -> its runs.
        groups: of the data that they were evaluated on.
        labels: row -> its label.
        speeds: row -> users per second, in place of what the runs recorded for all rows; empty: as recorded.

    Raises:
        InputError: if a row is not there, or was evaluated on other instances.
    """
    for row in (*labels, *speeds):
        if row not in runs:
            raise InputError(f"There is no row '{row}': one of {', '.join(sorted(runs))}.")
    rows = []
    for row in labels or runs:
        (values,) = metrics_by_model(runs[row], groups.instances).values()
        speed = speeds.get(row) if speeds else float(np.mean([_recorded_speed(run) for run in runs[row]]))
        label = labels.get(row, row)
        rows.append(Row(label, len(runs[row]), values[NDCG].to_numpy(), values[RECALL].to_numpy(), speed))
    return rows


def table(rows: Sequence[Row], groups: Groups) -> str:
    """Return the numbers as a Markdown table, each group with how many users are in it."""
    popularity, category = groups.masks[POPULARITY].items(), groups.masks[CATEGORY].items()
    return markdown_table(
        [
            {
                "model": row.label,
                "seeds": row.seeds,
                NDCG: _with_interval(row.ndcg),
                RECALL: f"{row.recall.mean():.4f}",
                "users_per_s": row.users_per_s,
                **{f"{name} ({mask.sum():,})": _with_interval(row.ndcg[mask]) for name, mask in category},
                **{f"{name} ({mask.sum():,})": float(row.ndcg[mask].mean()) for name, mask in popularity},
            }
            for row in rows
        ]
    )


def values_of(row: Row, groups: Groups) -> Values:
    """Return what is drawn of `row`."""
    nobody = np.zeros(len(row.ndcg), dtype=bool)
    categories, popularity = groups.masks[CATEGORY], groups.masks[POPULARITY]
    return Values(
        row.label,
        float(row.ndcg.mean()),
        {name: _mean_and_half(row.ndcg[categories.get(name, nobody)]) for name in (GENERALIZATION, MEMORIZATION)},
        {name: float(row.ndcg[mask].mean()) for name, mask in popularity.items() if name != NEVER},
        row.users_per_s,
    )


@styled
def draw(rows: Sequence[Values], output: Path) -> list[Path]:
    """Draw the three panels and write ``OUTPUT.png``, ``.pdf`` and ``.svg``; return the files."""
    figure = new_figure(PAGE, 3.0)
    styles = _styles([row.label for row in rows])
    left, middle, right = figure.subplots(1, 3)
    _draw_categories(left, rows, styles)
    _draw_popularity(middle, rows, styles)
    _draw_speed(right, rows, styles)
    for axes in (left, middle, right):
        axes.grid()
    legend_below(figure, middle, 3 if len(rows) in (5, 6) else 4)
    return write_figure(figure, output.with_name(f"{output.name}.png"))


def _draw_categories(axes: Axes, rows: Sequence[Values], styles: Sequence[dict]) -> None:
    for row, style in zip(rows, styles, strict=True):
        x, y = row.by_category[GENERALIZATION], row.by_category[MEMORIZATION]
        axes.errorbar(x[0], y[0], xerr=x[1], yerr=y[1], elinewidth=0.8, **style)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("NDCG@10, generalization")
    axes.set_ylabel("NDCG@10, memorization")


def _draw_popularity(axes: Axes, rows: Sequence[Values], styles: Sequence[dict]) -> None:
    shown = list(rows[0].by_popularity)
    for row, style in zip(rows, styles, strict=True):
        means = [row.by_popularity[name] for name in shown]
        axes.plot(range(len(shown)), means, linewidth=0.9, label=row.label, **style)
    axes.set_xticks(range(len(shown)), shown)
    axes.set_yscale("function", functions=(_root, np.square))  # a log scale has no place for zero
    axes.set_yticks([0, 0.01, 0.02, 0.05, *np.arange(0.1, 1.01, 0.1 if axes.get_ylim()[1] > 0.35 else 0.05)])
    axes.set_ylim(0, 1.08 * max(0.01, *(np.max(line.get_ydata()) for line in axes.lines)))
    axes.set_xlabel("target's occurrences in training")
    axes.set_ylabel("NDCG@10 (root scale)")


def _draw_speed(axes: Axes, rows: Sequence[Values], styles: Sequence[dict]) -> None:
    for row, style in zip(rows, styles, strict=True):
        if row.users_per_s:
            axes.plot(row.users_per_s, row.ndcg, linestyle="none", **style)
    speeds = [row.users_per_s for row in rows if row.users_per_s]
    if speeds:
        log_axis(axes.xaxis, min(speeds), max(speeds))
    axes.margins(x=0.15, y=0.15)
    axes.set_xlabel("users per second")
    axes.set_ylabel("NDCG@10")


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0))


def _styles(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return colour and marker of each label: hollow without a memory, filled with it."""
    bases = [_without_memory(label, labels) for label in labels]
    numbers = {base: number for number, base in enumerate(dict.fromkeys(bases))}
    pairs = {base for base, label in zip(bases, labels, strict=True) if base != label}
    styles = []
    for base, label in zip(bases, labels, strict=True):
        own = colour(numbers[base])
        hollow = base in pairs and base == label
        styles.append(
            {
                "color": own,
                "marker": marker(numbers[base]),
                "markersize": 6,
                "markerfacecolor": "white" if hollow else own,
                "alpha": 0.9,
            }
        )
    return styles


def _without_memory(label: str, labels: Sequence[str]) -> str:
    """Return the other label that this one is with "memory" after it, or the label itself."""
    base = re.sub(r"\W*(with )?memory$", "", label)
    return base if base in labels else label


def _mean_and_half(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and half of its 95% interval (normal approximation), NaN where there are too few."""
    mean = float(values.mean()) if len(values) else np.nan
    return mean, _Z * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else np.nan


def _with_interval(values: np.ndarray) -> str:
    mean, half = _mean_and_half(values)
    return f"{mean:.4f}" if np.isnan(half) else f"{mean:.4f} ± {half:.4f}"


def _recorded_speed(run: FinishedRun) -> float:
    found = run.result["evaluations"].values()
    return next(one["users_per_s"] for one in found if one["per_user"] == run.per_user.name)


def _labelled(word: str) -> tuple[str, str]:
    row, _, label = word.partition("=")
    return row, label or row


def _speed(word: str) -> tuple[str, float]:
    row, _, number = word.rpartition("=")
    try:
        value = float(number.replace(",", ""))
    except ValueError:
        value = 0.0
    if not row or not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"'{word}' is not a row and its users per second as ROW=NUMBER.")
    return row, value


if __name__ == "__main__":
    main()
