"""Draws the figures of docs/concepts/: ``python docs/figures/draw.py`` writes one .svg for each function here.

What has numbers is computed by the package, on examples small enough to check by hand.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from recbole_sid.evaluation.style import COLOURS, GREY, PAGE, new_figure, styled, write_figure
from recbole_sid.memory import Memory, Numbers

BLUE, ORANGE, GREEN = COLOURS[:3]


def _canvas(height: float, width: float = 10) -> tuple[Figure, Axes]:
    """Return a figure of a page's width whose axes are a plain sheet of `width` x 10 * height / 7 units."""
    figure = new_figure(PAGE, height)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(0, width * height / PAGE)
    return figure, axes


def _box(
    axes: Axes, x: float, y: float, text: str, colour: str = "black", width: float = 1.5, height: float = 0.6
) -> None:
    style: dict[str, Any] = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "fc": "white", "ec": colour}
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, **style))
    axes.text(x, y, text, ha="center", va="center", fontsize=7)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = GREY, style: str = "-"
) -> None:
    line = {"arrowstyle": "-|>", "color": colour, "linestyle": style, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=line)


@styled
def trie() -> Figure:
    """Eight items as paths through a tree of codes."""
    codes = np.array([[0, 0, 0], [0, 0, 1], [0, 2, 0], [1, 1, 0], [1, 2, 0], [2, 0, 0], [2, 0, 1], [2, 1, 0]])
    titles = [
        "guitar\nstrings",
        "bass\nstrings",
        "guitar\npicks",
        "drum\nsticks",
        "practice\npad",
        "violin\nbow",
        "cello\nbow",
        "rosin",
    ]
    figure, axes = _canvas(2.7)
    places = np.linspace(1.9, 9.5, len(codes))
    heights = [3.5, 2.65, 1.8, 0.95]
    nodes: dict[tuple[int, ...], float] = {}
    for depth in range(4):
        for prefix in dict.fromkeys(map(tuple, codes[:, :depth])):
            below = (codes[:, :depth] == prefix).all(axis=1)
            nodes[prefix] = float(places[below].mean())
    for prefix, x in nodes.items():
        depth = len(prefix)
        if depth:
            above = nodes[prefix[:-1]]
            alone = sum(other[:-1] == prefix[:-1] for other in nodes if len(other) == depth) == 1
            axes.plot(
                [above, x], [heights[depth - 1], heights[depth]], color=GREY, lw=0.8, ls=":" if alone else "-", zorder=0
            )
        circle = axes.scatter(
            [x], [heights[depth]], s=170, color="white", edgecolor=BLUE if depth else "black", zorder=1
        )
        circle.set_linewidth(1.0)
        axes.text(x, heights[depth], str(prefix[-1]) if depth else "", ha="center", va="center", fontsize=7)
    for x, title in zip(places, titles, strict=True):
        axes.text(x, 0.6, title, ha="center", va="top", fontsize=7)
    for depth, name in enumerate(["history", "first code", "second code", "third code"]):
        axes.text(0.1, heights[depth], name, ha="left", va="center", fontsize=7, color="black" if depth else GREY)
    return figure


@styled
def distillation() -> Figure:
    """What of the teacher a student keeps, and what it learns from."""
    figure, axes = _canvas(2.5)
    _box(axes, 1.2, 2.9, "history:\ncodes of items")
    _box(axes, 3.5, 2.9, "encoder\n(frozen)", BLUE)
    _box(axes, 6.0, 2.9, "decoder:\na pass a code", BLUE)
    _box(axes, 8.7, 2.9, "teacher's logits\nof each level", BLUE, 1.8)
    _box(axes, 3.5, 0.8, "readout:\none attention", ORANGE)
    _box(axes, 6.0, 0.8, "an MLP head\na level", ORANGE)
    _box(axes, 8.7, 0.8, "student's logits\nof each level", ORANGE, 1.8)
    for start, end in (((1.95, 2.9), (2.75, 2.9)), ((4.25, 2.9), (5.25, 2.9)), ((6.75, 2.9), (7.8, 2.9))):
        _arrow(axes, start, end)
    for start, end in (((3.5, 2.6), (3.5, 1.1)), ((4.25, 0.8), (5.25, 0.8)), ((6.75, 0.8), (7.8, 0.8))):
        _arrow(axes, start, end)
    _arrow(axes, (8.7, 2.6), (8.7, 1.1), GREEN, "--")
    axes.text(
        8.55, 1.85, "KL divergence, and\ncross entropy to the codes", ha="right", va="center", fontsize=7, color=GREEN
    )
    axes.text(3.65, 1.85, "states", ha="left", va="center", fontsize=7, color=GREY)
    axes.text(0.45, 3.4, "teacher (TIGER)", fontsize=7, color=BLUE)
    axes.text(0.45, 0.7, "student (SID-MLP)", fontsize=7, color=ORANGE)
    return figure


@styled
def memory() -> Figure:
    """The mixture of a memory and a model, for items that training saw often, seldom and never."""
    sequences = [[1, 2]] * 8 + [[1, 3]] * 4 + [[4, 5]]
    items = np.concatenate([np.array(sequence) for sequence in sequences])
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])])
    table = Memory(7)
    table.learn(items, offsets, Numbers(hops=1, window=1, pseudo_counts=3.0))
    recall = table.recall(torch.tensor([[1], [4], [6]]))
    model = np.array([0.15, 0.2, 0.15, 0.3, 0.2])  # p0 of items 2 to 6, the same for all three
    figure = new_figure(PAGE, 2.1)
    titles = ["12 observations", "1 observation", "none: the model's own"]
    for row, (axes, title) in enumerate(zip(figure.subplots(1, 3, sharey=True), titles, strict=True)):
        masses, left = recall.dense()[row, 2:].numpy(), float(recall.remaining[row])
        axes.bar(range(5), masses, color=ORANGE, label="the memory's counts")
        axes.bar(range(5), left * model, bottom=masses, color=BLUE, label="the model, in what is left")
        axes.set_title(f"{title}; left {left:.2f}")
        axes.set_xticks(range(5), [f"item {number}" for number in range(2, 7)], rotation=30)
    figure.axes[0].set_ylabel("p(item | history)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


@styled
def exact_search() -> Figure:
    """A beam of one loses the best item; the bound of a prefix says that it must be looked at."""
    figure, axes = _canvas(2.5)
    first = {"0": (3.2, 0.6), "1": (7.2, 0.4)}
    leaves = [("0", 1.8, 0.35), ("0", 3.2, 0.33), ("0", 4.6, 0.32), ("1", 6.5, 0.9), ("1", 7.9, 0.1)]
    best = max(first[above][1] * p for above, _, p in leaves)
    for code, (x, p) in first.items():
        kept = code == "0"
        axes.plot([5.2, x], [3.1, 2.05], color=BLUE if kept else ORANGE, lw=1.4, ls="-" if kept else "--", zorder=0)
        _box(axes, x, 2.05, f"p = {p:.2f}", BLUE if kept else ORANGE, 1.1, 0.5)
    for above, x, p in leaves:
        joint = first[above][1] * p
        colour = BLUE if above == "0" else ORANGE
        axes.plot([first[above][0], x], [1.8, 0.95], color=colour, lw=1.4, ls="-" if above == "0" else "--", zorder=0)
        _box(axes, x, 0.7, f"p = {joint:.2f}", colour, 1.1, 0.5)
        if joint == best:
            axes.text(x, 0.25, "the best item", ha="center", va="center", fontsize=7, color=ORANGE)
    _box(axes, 5.2, 3.2, "history", width=1.1, height=0.5)
    axes.text(0.1, 2.05, "a beam of one\nkeeps this prefix", va="center", fontsize=7, color=BLUE)
    axes.text(8.0, 2.05, ".40 is above .21, the best\nfound: look below", va="center", fontsize=7, color=ORANGE)
    axes.text(1.8, 0.25, "found by the beam", ha="center", va="center", fontsize=7, color=BLUE)
    return figure


FIGURES: tuple[Callable[[], Figure], ...] = (trie, distillation, memory, exact_search)


def main(folder: Path) -> None:
    """Write the figures into `folder`."""
    for draw in FIGURES:
        write_figure(draw(), folder / f"{draw.__name__}.svg", ("svg",))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
