"""Tables of a page: what a cell shows, and what it is sorted by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from recbole_sid.evaluation.tables import column_title, format_value


class Cell(NamedTuple):
    """A cell.

    Attributes:
        text: shown; any text.
        by: it is sorted by this, a number or a text; None: after all others.
        mark: ``best``, ``second``, ``better``, ``worse`` or nothing.
        note: shown when it is pointed at.
    """

    text: str
    by: float | str | None = None
    mark: str = ""
    note: str = ""


class PageTable(NamedTuple):
    """A table.

    Attributes:
        heads: of the columns.
        rows: their cells; those of the first column are texts.
    """

    heads: list[str]
    rows: list[list[Cell]]


def table_of(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str] | None = None) -> PageTable:
    """Return a table of flat rows, columns in the order of the first row's keys.

    Args:
        rows: any number.
        names: key -> heading, where it is not `column_title`'s.
    """
    columns = list(rows[0]) if rows else []
    heads = [(names or {}).get(column) or column_title(column) for column in columns]
    return PageTable(heads, [[cell(column, row.get(column)) for column in columns] for row in rows])


def cell(column: str, value: Any) -> Cell:
    """Return the cell of a value, with the decimals of its column."""
    return Cell(format_value(column, value), value if isinstance(value, (int, float, str)) else None)


def facts_of(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and text of each value, those within others under both names."""
    found: list[tuple[str, str]] = []
    for name, value in values.items():
        shown = name.replace("_", " ")
        if isinstance(value, Mapping):
            found += [(f"{shown}: {inner}", text) for inner, text in facts_of(value)]
        else:
            found.append((shown, format_value(name, value)))
    return found
