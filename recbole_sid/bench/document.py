"""The benchmark's results as Markdown and as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from recbole_sid.bench.run import Measured
from recbole_sid.evaluation.style import PAGE, log_axis, new_figure, point, styled, write_figure
from recbole_sid.evaluation.tables import markdown_table

_COLUMNS = {
    "name": "Row",
    "ms": "ms a batch",
    "spread": "quartiles",
    "ms_p99": "p99",
    "users_per_s": "Users/s",
    "ratio_to_teacher": "time / tiger-constrained",
    "ratio_to_sasrec": "time / sasrec",
    "ratio_to_plain": "time / plain",
    "encode_ms": "encode",
    "readout_ms": "readout",
    "decode_ms": "decode",
    "peak_mb": "peak MB",
    "same_top10": "top 10 as plain",
}
_SHORT = ("name", "ms", "ms_p99", "users_per_s", "ratio_to_teacher", "ratio_to_sasrec")


def document(measured: Measured, command: str) -> str:
    """Return a document: what was measured where and with which `command`, and a table per setting."""
    facts = measured.facts
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    what = f"checkpoint {facts['checkpoint']}" if facts["checkpoint"] else "random weights at the paper's sizes"
    lines = ["# Benchmark of decoding", "", f"    {command}", ""]
    lines += [f"{facts['processor']}; {versions}. {what}; {facts['items']:,} items, beam {facts['beam_size']}.", ""]
    if "branching" in facts:
        lines += [_catalogue(facts), ""]
    lines += [
        "Milliseconds are medians of one interleaved run: in every round each row runs once, in random order. Ratios",
        "are medians over rounds. Rounds next to which a fixed product was slow (something else took the processor) do",
        "not count; p99 is the 99th percentile of those that do, of few rounds nearly the slowest. Stages are timed in",
        "runs of their own. Peak MB is the growth of memory in one call; `top 10 as plain` is the share of the plain",
        "row's first ten items that are among this row's first ten. Plain is for rows serve-* the package's own model.",
    ]
    for heading, rows in _by_setting(measured.rows):
        lines += ["", f"## {heading}", "", table(rows, tuple(_COLUMNS))]
    if measured.skipped:
        lines += ["", *(f"- {sentence}" for sentence in measured.skipped)]
    return "\n".join(lines) + "\n"


def summary(measured: Measured) -> str:
    """Return a short table per setting, for the terminal."""
    parts = [f"{heading}\n\n{table(rows, _SHORT)}" for heading, rows in _by_setting(measured.rows)]
    return "\n\n".join([*parts, *measured.skipped])


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Return `rows` as a Markdown table; empty where there is no value."""
    cells = [{_COLUMNS[column]: _cell(column, row) for column in columns} for row in rows]
    return markdown_table(cells, left=[_COLUMNS["name"]])


@styled
def figure(measured: Measured, path: str | os.PathLike[str]) -> list[Path]:
    """Draw users per second (log scale) of each row, a panel per kind of history and number of threads; return the
    files.
    """
    panels: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in measured.rows:
        panels.setdefault((row["histories"], row["threads"]), []).append(row)
    names = list(dict.fromkeys(row["name"] for row in measured.rows))
    batches = sorted({row["batch"] for row in measured.rows})
    speeds = [row["users_per_s"] for row in measured.rows]
    drawn = new_figure(PAGE, 0.9 + 0.18 * len(names))
    all_axes = drawn.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for axes, ((histories, threads), rows) in zip(all_axes, panels.items(), strict=True):
        for number, batch in enumerate(batches):
            points = [row for row in rows if row["batch"] == batch]
            axes.scatter(
                [row["users_per_s"] for row in points],
                [names.index(row["name"]) for row in points],
                s=16,
                label=f"batch {batch}",
                alpha=0.9,
                **point(number),
            )
        log_axis(axes.xaxis, min(speeds), max(speeds))
        axes.set_title(f"{histories} histories, {threads} thread{'s'[: threads > 1]}")
        axes.set_xlabel("users per second (log scale)")
        axes.set_yticks(range(len(names)), names)
        axes.grid()
    all_axes[0].invert_yaxis()
    all_axes[-1].legend()
    return write_figure(drawn, path)


def _by_setting(rows: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    def heading(row: Mapping[str, Any]) -> str:
        return f"Batch {row['batch']}, {row['threads']} thread{'s'[: row['threads'] > 1]}, {row['histories']} histories"

    return [(title, list(group)) for title, group in groupby(rows, heading)]


def _catalogue(facts: Mapping[str, Any]) -> str:
    depths = "; ".join(
        f"{row['prefixes']:,} of length {row['depth']} ({row['single_child']:.0%} with one child)"
        for row in facts["branching"]
    )
    sizes = " x ".join(str(size) for size in facts["codebook_sizes"])
    trie = f"Trie built in {facts['trie_ms']:.0f} ms by one thread, {facts['trie_bytes'] / 1e6:.1f} MB"
    return f"Codes {sizes}; distinct prefixes: {depths}. {trie}."


def _cell(column: str, row: Mapping[str, Any]) -> str:
    if column == "spread":
        return f"{_number(row['ms_low'])} to {_number(row['ms_high'])}"
    value = row[column]
    if value is None:
        return ""
    if column == "same_top10":
        return f"{value:.1%}"
    if column in ("users_per_s", "peak_mb"):
        return f"{value:,.0f}"
    return _number(value) if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    """Return three significant digits or more."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
