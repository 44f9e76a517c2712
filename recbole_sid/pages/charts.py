"""Charts of a page, as the dictionaries that plotly.js draws; series look as those of the figures."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from recbole_sid.evaluation.style import colour

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "star", "x")  # style.MARKERS
_LONGEST = 60

Chart = dict[str, Any]


def _plain(text: str) -> str:
    """Return any text as plotly shows it, cut: it would read markup in it."""
    return _whole(textwrap.shorten(str(text), _LONGEST, placeholder="...") or str(text)[:_LONGEST])


def _whole(text: str) -> str:
    return html.escape(str(text), quote=False)


def points(number: int, name: str, x: Sequence[Any], y: Sequence[Any], spread: Sequence[Any] | None = None) -> Chart:
    """Return a series of points; `spread` is half of the error bars."""
    series = _series(number, name, x, y, "markers")
    series["marker"] |= {"size": 11, "symbol": _SYMBOLS[number % len(_SYMBOLS)]}
    if spread is not None and any(spread):
        series["error_y"] = {"type": "data", "array": list(spread), "thickness": 1, "color": colour(number)}
    return series


def line(number: int, name: str, x: Sequence[Any], y: Sequence[Any], **further: Any) -> Chart:
    """Return a series of points with a line through them, where two follow each other."""
    return _series(number, name, x, y, "lines+markers") | further


def curve(number: int, name: str, x: Sequence[Any], y: Sequence[Any]) -> Chart:
    """Return a series that is a line alone."""
    return _series(number, name, x, y, "lines")


def bars(number: int, name: str, x: Sequence[str], y: Sequence[Any]) -> Chart:
    """Return a series of bars over names."""
    return {
        "type": "bar",
        "name": _plain(name),
        "x": list(x),
        "y": list(y),
        "marker": {"color": colour(number)},
    }


def chart(
    series: Sequence[Chart],
    x: str,
    y: str,
    xaxis: Mapping[str, Any] | None = None,
    yaxis: Mapping[str, Any] | None = None,
) -> Chart:
    """Return a chart.

    Args:
        series: what it shows; where x holds names, any texts, they are categories.
        x, y: titles of the axes.
        xaxis, yaxis: further attributes of them.
    """
    names = list(dict.fromkeys(name for each in series for name in each["x"] if isinstance(name, str)))
    if names:
        series = [{**each, "x": [_whole(name) for name in each["x"]]} for each in series]
        # Whole where they tell categories apart, cut where they are read.
        ticks = {"tickvals": [_whole(name) for name in names], "ticktext": [_plain(name) for name in names]}
        xaxis = {"type": "category", **ticks, **(xaxis or {})}
    layout = {
        "height": 380,
        "margin": {"l": 60, "r": 16, "t": 16, "b": 48},
        "xaxis": {"title": {"text": _plain(x)}, "automargin": True, **(xaxis or {})},
        "yaxis": {"title": {"text": _plain(y)}, "automargin": True, **(yaxis or {})},
        "legend": {"orientation": "h", "y": -0.2},
        "hovermode": "closest",
        "barmode": "group",
    }
    return {"data": list(series), "layout": layout}


def _series(number: int, name: str, x: Sequence[Any], y: Sequence[Any], mode: str) -> Chart:
    return {
        "type": "scatter",
        "mode": mode,
        "name": _plain(name),
        "x": list(x),
        "y": list(y),
        "marker": {"color": colour(number), "size": 5},
        "line": {"color": colour(number), "width": 1.5},
    }
