"""The benchmark's results as Markdown and as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from recbole_sid.bench.run import Measured
from recbole_sid.evaluation.figures import write_png
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


def figure(measured: Measured, path: str | os.PathLike[str]) -> None:
    """Draw users per second (log scale) of each row, a panel per kind of history and number of threads, as PNG."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    panels: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in measured.rows:
        panels.setdefault((row["histories"], row["threads"]), []).append(row)
    names = list(dict.fromkeys(row["name"] for row in measured.rows))
    batches = sorted({row["batch"] for row in measured.rows})
    drawn = Figure(figsize=(1.5 + 4.2 * len(panels), 1.5 + 0.32 * len(names)), layout="constrained")
    all_axes = drawn.subplots(1, len(panels), sharey=True, sharex=True, squeeze=False)[0]
    for axes, ((histories, threads), rows) in zip(all_axes, panels.items(), strict=True):
        for number, batch in enumerate(batches):
            points = [row for row in rows if row["batch"] == batch]
            axes.scatter(
                [row["users_per_s"] for row in points],
                [names.index(row["name"]) for row in points],
                marker="osD^vP*X"[number % 8],
                label=f"batch {batch}",
                alpha=0.85,
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_title(f"{histories} histories, {threads} thread{'s'[: threads > 1]}", fontsize=10)
        axes.set_xlabel("users per second (log scale)")
        axes.set_yticks(range(len(names)), names)
        axes.grid(alpha=0.3)
    all_axes[0].invert_yaxis()
    all_axes[-1].legend(fontsize=8)
    write_png(drawn, path)


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
