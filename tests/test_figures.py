"""Figures: what stands in them, that nothing is cut off, and that they look alike."""

from __future__ import annotations

import importlib
import re
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recbole_sid.evaluation.figures import accuracy_speed_figure
from recbole_sid.evaluation.names import display_name, display_names
from recbole_sid.evaluation.style import COLOURS, COLUMN, PAGE, log_axis, new_figure, point, styled, write_figure
from recbole_sid.generalization.analysis import Analysis
from recbole_sid.generalization.analysis_figure import figure
from recbole_sid.tuning.search_files import _rows_of_panels

MODELS = [
    "SASRec",
    "TIGER",
    "TIGER-constrained",
    "SIDMLP",
    "SIDMLPPlusPlus-item",
    "SIDMLPHybrid-memory",
    "A-b",
    "C",
    "D",
]


def test_names_are_as_papers_write_them() -> None:
    assert display_name("SIDMLPPlusPlus-item") == "SID-MLP++ (item)"
    assert display_name("TIGER-constrained") == "TIGER (constrained)"
    assert display_name("SIDMLPHybrid-memory-exact") == "SID-MLP hybrid (memory, exact)"
    assert [display_name(name) for name in ("SASRec", "ours_v2", "a-b", "50% off")] == [
        "SASRec",
        "ours_v2",
        "a-b",
        "50% off",
    ]
    assert display_names(["TIGER-a-b", "TIGER-a, b", "Pop"]) == {
        "TIGER-a-b": "TIGER-a-b",
        "TIGER-a, b": "TIGER-a, b",
        "Pop": "Popularity",
    }


def test_series_differ_in_colour_and_marker_and_colours_for_the_colour_blind() -> None:
    assert len({tuple(point(number).values()) for number in range(56)}) == 56
    assert len({point(number)["marker"] for number in range(8)}) == 8
    # Machado, Oliveira and Fernandes 2009, severity 1: what people without red or green cones see, in linear light.
    seen = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    }
    plain = np.array([[int(text[place : place + 2], 16) / 255 for place in (1, 3, 5)] for text in COLOURS])
    linear = np.where(plain <= 0.04045, plain / 12.92, ((plain + 0.055) / 1.055) ** 2.4)
    for matrix in seen.values():
        found = np.clip(linear @ np.array(matrix).T, 0, 1)
        apart = np.linalg.norm(np.sqrt(found)[:, None] - np.sqrt(found)[None], axis=2)
        assert apart[~np.eye(len(COLOURS), dtype=bool)].min() > 0.08


def analysis_of(models: list[str]) -> Analysis:
    shares = [
        {"category": name, "count": 30, "share": 1 / 3} for name in ("memorization", "generalization", "uncategorized")
    ]
    categories = [
        {**row, "model": model, "ndcg@10": value, "ndcg@10_low": value * 0.8, "ndcg@10_high": value * 1.2}
        for row, value in zip(shares, (0.4, 0.02, 0.0), strict=True)
        for model in models
    ]
    predicted = [{"model": model, **row} for row in shares for model in models]
    indicator = [
        {"bin": f"0.{n}00-0.{n}99", "count": 6, "memorization": 0.1 * n, **dict.fromkeys(models, 0.1)} for n in range(5)
    ]
    return Analysis(shares, categories, predicted, [], [], [], indicator, "SASRec (seed 2020)")


def rows_of(models: list[str]) -> list[dict[str, Any]]:
    return [{"model": model, "users_per_s": 10.0 ** (n % 6), "ndcg@10": n / 10} for n, model in enumerate(models)]


@pytest.mark.parametrize("draw", ["analysis", "accuracy"])
def test_figures_are_written_three_ways_with_nothing_cut_off(draw: str, tmp_path: Path) -> None:
    def write(stem: str) -> list[Path]:
        if draw == "analysis":
            return figure(analysis_of(MODELS), tmp_path / f"{stem}.png")
        return accuracy_speed_figure(rows_of(MODELS), tmp_path / f"{stem}.png")

    png, pdf, svg = write("one")
    again = write("two")
    assert [file.read_bytes() for file in (pdf, svg)] == [file.read_bytes() for file in again[1:]]
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/Type3" not in pdf.read_bytes()
    text = svg.read_text(encoding="utf-8")
    assert all(name in text for name in ("SID-MLP++ (item)", "TIGER (constrained)", "SID-MLP hybrid (memory)"))
    assert "uncategorized, NDCG" not in text
    pixels = np.asarray(Image.open(png).convert("L"))
    edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
    assert min(edge.min() for edge in edges) == 255  # what is cut off touches an edge
    assert pixels.shape[1] == pytest.approx((PAGE if draw == "analysis" else COLUMN) * 200, abs=1)


@pytest.mark.parametrize("scored", [2, 3])
def test_texts_of_an_analysis_stand_apart(scored: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []

    def keep(drawing: Any, path: Path) -> list[Path]:
        drawn.append(drawing)
        return write_figure(drawing, path, ["png"])

    monkeypatch.setattr("recbole_sid.generalization.analysis_figure.write_figure", keep)
    analysis = analysis_of(MODELS[:4])
    for row in analysis.categories[8:] if scored == 3 else []:
        row.update({"ndcg@10": 0.0005, "ndcg@10_low": 0.0001, "ndcg@10_high": 0.0009})
    figure(analysis, tmp_path / "analysis.png")
    (drawing,) = drawn
    boxes = [axes.xaxis.label.get_window_extent() for axes in drawing.axes if axes.get_xlabel()]
    boxes += [axes.title.get_window_extent() for axes in drawing.axes if axes.get_title()]
    for axes in drawing.axes:
        low, high = axes.get_xlim()
        ticks = zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        boxes += [label.get_window_extent() for place, label in ticks if low <= place <= high]
    assert len([axes for axes in drawing.axes if axes.get_title()]) == scored
    for one, other in combinations([box for box in boxes if box.width], 2):
        assert not one.overlaps(other)
    width = drawing.bbox.width
    assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)


def test_pictures_of_pages_are_drawn_from_their_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).parents[1]
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    published = importlib.import_module("published")
    for page in ("memory.md", "memorization_generalization.md"):
        (tmp_path / page).write_text((root / "results" / page).read_text(encoding="utf-8"), encoding="utf-8")
    given: list[Any] = []
    monkeypatch.setattr(published, "draw", lambda rows, output: given.extend(rows) or [])
    published.memory(tmp_path)
    assert [row.label for row in given][:2] == ["SASRec", "TransitionMemory"]
    assert [row.users_per_s for row in given] == [2201, 25064, 23668, 3064, 2494]
    assert given[4].by_category["memorization"][0] == 0.683
    assert given[4].by_popularity == {"1-3": 0.0447, "4-7": 0.0623, "8-19": 0.1019, "20+": 0.1421}
    monkeypatch.setattr(published, "figure", lambda analysis, path: given.append(analysis) or [])
    published.memorization_generalization(tmp_path)
    analysis = given[-1]
    assert analysis.shares[0]["share"] == pytest.approx(0.097)
    assert analysis.categories[0]["ndcg@10"] == 0.5567
    assert analysis.categories[0]["ndcg@10_low"] == pytest.approx(0.5316)
    assert analysis.indicator[-1]["SIDMLPPlusPlus-item"] == 0.1412
    assert analysis.predicted[0]["share"] == pytest.approx(0.303)


@pytest.mark.parametrize("high", [20, 500, 1e4, 1e9])
def test_numbers_of_a_log_axis_do_not_overlap(high: float, tmp_path: Path) -> None:
    @styled
    def drawn() -> list[Any]:
        figure = new_figure(COLUMN, 2)
        axes = figure.add_subplot()
        axes.scatter([2, high], [0, 1])
        log_axis(axes.xaxis, 2, high)
        write_figure(figure, tmp_path / "x.png", ["png"])
        return sorted((label.get_window_extent() for label in axes.get_xticklabels()), key=lambda box: box.x0)

    boxes = drawn()
    inside = [box for box in boxes if box.width]
    assert len(inside) >= 2
    assert all(left.x1 < right.x0 for left, right in pairwise(inside))


def test_panels_leave_no_place_empty() -> None:
    for panels in range(1, 14):
        rows = _rows_of_panels(panels)
        assert sum(rows) == panels
        assert max(rows) <= 4
        assert max(rows) - min(rows) <= 1


def test_no_other_module_writes_pictures() -> None:
    package = Path(__file__).parents[1] / "recbole_sid"
    writing = re.compile(r"print_png|print_svg|savefig|matplotlib\.pyplot")
    found = [file.name for file in package.rglob("*.py") if writing.search(file.read_text(encoding="utf-8"))]
    assert found == ["style.py"]
