"""The quality report of semantic IDs: what to know before hours of training, as JSON, table and picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.config import Config
from recbole_sid.evaluation.style import COLOURS, PAGE, new_figure, styled, write_figure
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.features import feature_names
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.semantic_ids.quality import (
    co_occurrence_agreement,
    collisions,
    group_sizes,
    level_rows,
    neighbourhood_agreement,
    warnings_of,
)
from recbole_sid.util.files import write_json, write_text

_MOST_GROUPS = 10  # group sizes that the picture tells apart


def sid_report(semantic_ids: SemanticIDs) -> dict[str, Any]:
    """Return the report on semantic IDs alone, JSON types only.

    Returns:
        items; collided_items, groups, largest_group and collided_share (of the items), before the collision rule;
        reconstruction_error where the recipe has it, else None; warnings, a sentence each; rows as `level_rows`.
    """
    rows, collided = level_rows(semantic_ids), collisions(semantic_ids)
    n_items = len(semantic_ids.codes)
    return {
        "fingerprint": semantic_ids.fingerprint,
        "items": n_items,
        **collided,
        "collided_share": collided["collided_items"] / n_items,
        "reconstruction_error": semantic_ids.recipe.get("reconstruction_error"),
        "warnings": warnings_of(semantic_ids, rows, collided),
        "rows": rows,
    }


def report_with_dataset(
    semantic_ids: SemanticIDs, train_dataset: Any, features: np.ndarray, names: Sequence[str], seed: int = 0
) -> dict[str, Any]:
    """Return `sid_report` with ``neighbourhood`` and ``co_occurrence``: what codes have to do with features and use.

    Args:
        semantic_ids: for all items of the dataset.
        train_dataset: the training split, a `HistoryDataset`.
        features: [n_items, d], rows in the order of ``train_dataset.item_tokens()``.
        names: what the features are, to be told.
        seed: of the sample of items in large catalogues.

    Raises:
        InputError: if an item of the dataset has no semantic ID.
    """
    items = train_dataset.item_tokens()
    own = SemanticIDs(semantic_ids.table(items)[1:], semantic_ids.codebook_sizes, items, semantic_ids.recipe)
    near = neighbourhood_agreement(own, features, seed=seed, show_progress=True)
    together = co_occurrence_agreement(own, *train_dataset.training_sequences())
    return {
        **sid_report(semantic_ids),
        "neighbourhood": {"features": list(names), **near._asdict()},
        "co_occurrence": together._asdict(),
    }


def report_of_config(
    semantic_ids: SemanticIDs, train_dataset: Any, features: np.ndarray, config: Config
) -> dict[str, Any]:
    """Return `report_with_dataset` of the features and the seed that `config` says."""
    return report_with_dataset(semantic_ids, train_dataset, features, feature_names(config), config["seed"])


def report_text(report: Mapping[str, Any]) -> str:
    """Return the report for a terminal or a Markdown file."""
    lines = [
        markdown_table(report["rows"]),
        "",
        f"{report['items']:,} items. Before the collision rule {_collisions_in_words(report)}.",
    ]
    if report["reconstruction_error"] is not None:
        lines.append(f"Reconstruction error: {report['reconstruction_error']:.4f} of the features' variance.")
    if "neighbourhood" in report:
        near = report["neighbourhood"]
        lines.append(f"Nearest neighbours ({' + '.join(near['features'])}) agree in {_depths(near)}.")
    if "co_occurrence" in report:
        lines.append(f"Adjacent items of histories agree in {_depths(report['co_occurrence'])}.")
    lines += [f"WARNING: {sentence}" for sentence in report["warnings"]]
    return "\n".join(lines)


def _collisions_in_words(report: Mapping[str, Any]) -> str:
    if not report["groups"]:
        return "no two of them share their codes"
    return (
        f"{report['collided_items']:,} of them ({report['collided_share']:.1%}) share their codes in "
        f"{report['groups']:,} groups, the largest of {report['largest_group']:,}"
    )


def _depths(agreement: Mapping[str, Any]) -> str:
    parts = [
        f"{_codes(depth)}: {shared:.1%} (by chance {chance:.1%})"
        for depth, (shared, chance) in enumerate(zip(agreement["shared"], agreement["chance"], strict=True), 1)
    ]
    return "; ".join(parts)


def _codes(depth: int) -> str:
    return "the first code" if depth == 1 else f"the first {depth}"


def write_report(report: Mapping[str, Any], semantic_ids: SemanticIDs, folder: str | os.PathLike[str]) -> None:
    """Write ``report.md``, ``report.json`` and the picture ``report`` as PNG, PDF and SVG into `folder`."""
    write_text(Path(folder) / "report.md", f"# Semantic IDs {report['fingerprint']}\n\n{report_text(report)}\n")
    write_json(Path(folder) / "report.json", dict(report))
    report_figure(report, semantic_ids, Path(folder) / "report.png")


@styled
def report_figure(report: Mapping[str, Any], semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> list[Path]:
    """Draw items per code of each level, the branching, and the sizes of groups of equal codes; return the files."""
    rows = report["rows"]
    columns = max(len(rows), 2)
    figure = new_figure(PAGE, 3.6)
    grid = figure.add_gridspec(2, 2 * columns)
    for row in rows:
        level = row["level"] - 1
        axes = figure.add_subplot(grid[0, 2 * level : 2 * level + 2])
        counts = np.bincount(semantic_ids.codes[:, level], minlength=row["size"])
        axes.stairs(np.sort(counts)[::-1], fill=True, color=COLOURS[0])
        axes.set_title(f"Level {row['level']}: {row['used']:,} of {row['size']:,} codes")
        axes.locator_params(axis="both", nbins=5)
        axes.set_xlabel("codes, most used first")
        axes.set_ylabel("items" if level == 0 else "")
    _draw_branching(figure.add_subplot(grid[1, :columns]), rows)
    groups = figure.add_subplot(grid[1, columns:])
    sizes = group_sizes(semantic_ids)
    moved = sizes.max() < report["largest_group"]  # the rule leaves no trace of what it moved
    groups.set_title(f"Collisions {'after' if moved else 'before'} the collision rule")
    _draw_groups(groups, sizes)
    return write_figure(figure, path)


def _draw_branching(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    levels = [row["level"] for row in rows]
    axes.plot(levels, [row["children_mean"] for row in rows], marker="o", color=COLOURS[0])
    axes.set_yscale("log")
    axes.set_xticks(levels)
    axes.set_xlabel("level")
    axes.set_ylabel("children per prefix (log scale)")
    axes.set_title("Branching; share of only children")
    for row in rows:
        height = row["children_mean"]
        axes.annotate(f"{row['only_child_share']:.0%}", (row["level"], height), ha="center", va="bottom", fontsize=7)
    axes.margins(y=0.15)


def _draw_groups(axes: Any, sizes: np.ndarray) -> None:
    """Draw how many items share their codes with none, one, two, ... others."""
    counts = np.bincount(np.minimum(sizes, _MOST_GROUPS), weights=sizes, minlength=_MOST_GROUPS + 1)[1:]
    labels = [str(size) for size in range(1, _MOST_GROUPS)] + [f"{_MOST_GROUPS}+"]
    axes.bar(labels, counts, color=[COLOURS[0]] + [COLOURS[1]] * (_MOST_GROUPS - 1))
    axes.set_yscale("symlog", linthresh=1)
    axes.set_xlabel("items with the same codes")
    axes.set_ylabel("items (log scale)")
