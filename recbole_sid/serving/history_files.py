"""Histories of users from files, a bounded batch at a time: JSON lines, CSV and Parquet, by their suffix.

JSON lines are ``{"user": "u1", "items": ["A", "B"]}``, the oldest item first. CSV has a header: ``user,items`` with the
ids of a user separated by spaces, or a row for each interaction, ``user,item`` or ``user,item,time``, those of a user
one after another, in their order or with a time to order them by. Parquet has the columns ``user`` and ``items``
(lists). Ids are text; whole numbers are taken as text. `user_id`, `item_id` and `timestamp` are known as names too.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from recbole_sid.errors import InputError, first_line
from recbole_sid.serving.asked import FlatLists, flat
from recbole_sid.util.item_tokens import LONGEST_TOKEN
from recbole_sid.util.reading import check_parquet

LONGEST_LINE = 1 << 22  # characters
LONGEST_HISTORY = 1 << 20  # items; a batch ends behind the history that brings it to so many
_NAMES = {"user": ("user", "user_id"), "item": ("item", "item_id"), "time": ("time", "timestamp"), "items": ("items",)}


class HistoryBatch(NamedTuple):
    """Users and their histories.

    Attributes:
        users: ids.
        histories: their items, the oldest first.
    """

    users: Sequence[str]
    histories: FlatLists


Reader = Callable[[Path, int], Iterator[HistoryBatch]]


def read_histories(path: str | Path, batch_size: int) -> Iterator[HistoryBatch]:
    """Yield the histories of a file in batches of at most `batch_size` users, and of bounded size.

    Raises:
        InputError: if the file is missing, damaged or of another kind, or has a row that cannot be used (names it).
    """
    file = Path(path)
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise InputError(f"'{path}' is of a kind that holds no histories: give {', '.join(READERS)}.")
    if not file.is_file():
        raise InputError(f"There is no file '{path}'.")
    return reader(file, batch_size)


def read_ids(path: str | Path) -> list[str]:
    """Return the ids of a text file, one a line; empty lines are left out.

    Raises:
        InputError: if it is missing, no text in UTF-8, or holds none.
    """
    with _opened(Path(path)) as stream:
        ids = [line.strip() for _, line in _lines(stream, path)]
    found = [line for line in ids if line]
    if not found:
        raise InputError(f"'{path}' holds no ids: write one a line.")
    return found


def _json_lines(path: Path, batch_size: int) -> Iterator[HistoryBatch]:
    with _opened(path) as stream:
        rows = (_json_row(line, f"Line {number} of '{path}'") for number, line in _lines(stream, path) if line.strip())
        yield from _batched(rows, batch_size)


def _json_row(line: str, place: str) -> tuple[str, list[str]]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is no JSON ({first_line(error)}): mend or remove it.") from None
    if not isinstance(row, dict):
        raise InputError(f'{place} is no object: write {{"user": "u1", "items": ["A", "B"]}}.')
    user, items = (next((row[name] for name in _NAMES[key] if name in row), None) for key in ("user", "items"))
    if not isinstance(items, list):
        raise InputError(f'{place} has no list "items": write {{"user": "u1", "items": ["A", "B"]}}.')
    ids = [value if type(value) is str else _as_text(value, place) for value in (user, *items)]
    if "\\ud" in line or "\\uD" in line:  # what may stand for half a character
        _check_whole(ids, place)
    return ids[0], ids[1:]


def _as_text(value: Any, place: str) -> str:
    if type(value) is int:
        return str(value)
    raise InputError(f"{place} has the id {json.dumps(value)[:50]}, which is no text: mend or remove it.")


def _check_whole(ids: Sequence[str], place: str) -> None:
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        raise InputError(f"{place} has an id with half a character (a lone surrogate): mend it.") from None


def _csv(path: Path, batch_size: int) -> Iterator[HistoryBatch]:
    csv.field_size_limit(LONGEST_LINE)  # of all readers of the process; by itself 131,072
    with _opened(path) as stream:
        rows = csv.reader((line for _, line in _lines(stream, path)), strict=True)
        header = [name.strip() for name in _next_row(rows, path) or ()]
        user, item, time, items = (_column(header, key) for key in ("user", "item", "time", "items"))
        if user is None or (item is None) == (items is None):
            raise InputError(
                f"'{path}' has the columns {', '.join(header)[:200] or '(none)'}: it needs user and items, or user and "
                "item, not both, in its first line, with commas between them."
            )
        if items is not None:
            found = ((row[user], row[items].split()) for row in _rows(rows, header, path))
            yield from _batched(found, batch_size)
        else:
            assert item is not None
            yield from _batched(_grouped(rows, header, path, (user, item, time)), batch_size)


def _next_row(rows: Any, path: Path) -> list[str] | None:
    try:
        return next(rows, None)
    except csv.Error as error:
        raise InputError(f"Line {rows.line_num} of '{path}' is no CSV ({error}): mend or remove it.") from None


def _rows(rows: Any, header: Sequence[str], path: Path) -> Iterator[list[str]]:
    while (row := _next_row(rows, path)) is not None:
        if row and len(row) != len(header):
            raise InputError(
                f"Line {rows.line_num} of '{path}' has {len(row)} fields and the first line {len(header)}: mend it."
            )
        if row:
            yield row


def _column(header: Sequence[str], key: str) -> int | None:
    return next((header.index(name) for name in _NAMES[key] if name in header), None)


def _grouped(
    rows: Any, header: Sequence[str], path: Path, columns: tuple[int, int, int | None]
) -> Iterator[tuple[str, list[str]]]:
    """Yield users with their items, of rows that stand together."""
    of_user, of_item, of_time = columns
    done: set[int] = set()
    for user, group in groupby(_rows(rows, header, path), key=lambda row: row[of_user]):
        first = rows.line_num
        if hash(user) in done:  # 64 bits, a fraction of what the ids take
            raise InputError(
                f"Line {first} of '{path}' is of the user '{user[:50]}', whose rows ended before: sort them by user."
            )
        done.add(hash(user))
        items: list[str] = []
        times: list[float] = []
        for row in group:
            items.append(row[of_item])
            if of_time is not None:
                times.append(_time(row[of_time], rows.line_num, path))
            if len(items) > LONGEST_HISTORY:
                raise InputError(f"Line {rows.line_num} of '{path}' is of a user with over {LONGEST_HISTORY:,} items.")
        order = sorted(range(len(times)), key=times.__getitem__)  # stable: equal times keep their order
        yield user, [items[place] for place in order] if times else items


def _time(text: str, line: int, path: Path) -> float:
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not math.isfinite(time):
        raise InputError(f"Line {line} of '{path}' has the time '{text[:50]}', which is no number: mend or remove it.")
    return time


def _parquet(path: Path, batch_size: int) -> Iterator[HistoryBatch]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"Reading '{path}' needs a Parquet library: pip install pyarrow.") from error
    try:
        with parquet.ParquetFile(path) as file:
            check_parquet(file, path)
            leaves = [file.schema.column(number) for number in range(file.metadata.num_columns)]
            # A text that stands in many rows is read once; Arrow cannot do that inside lists.
            texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and "." not in leaf.path]
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            names = file.schema_arrow.names
            chosen = [_column(names, key) for key in ("user", "items")]
            if None in chosen:
                raise InputError(
                    f"'{path}' has the columns {', '.join(names)[:200]}: it needs user, and items as lists."
                )
            columns = [names[column] for column in chosen if column is not None]
            done = 0
            for batch in file.iter_batches(batch_size, columns=columns):
                for part in _bounded(batch, columns[1], path, done):
                    users = texts_of(part.column(columns[0]), "user", path, done)
                    yield HistoryBatch(users.to_pylist(), lists_of(part.column(columns[1]), path, done))
                    done += len(part)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"'{path}' is no Parquet file that can be read ({first_line(error)}).") from error


def _bounded(batch: Any, column: str, path: Path, first: int) -> Iterator[Any]:
    """Yield parts of a batch with some `LONGEST_HISTORY` items each; `first` is the number of its first row."""
    sizes = _sizes(batch.column(column), path)
    if len(sizes) and sizes.max() > LONGEST_HISTORY:
        row = first + int(sizes.argmax()) + 1
        raise InputError(f"Row {row} of '{path}' has over {LONGEST_HISTORY:,} items: it is damaged.")
    part = np.cumsum(sizes) // LONGEST_HISTORY
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    for start, end in pairwise([*starts.tolist(), len(sizes)]):
        yield batch.slice(start, end - start)


def lists_of(column: Any, path: str | Path, first: int) -> FlatLists:
    """Return an Arrow column of lists of ids as such lists; `first` is the number of its first row, from 0.

    Raises:
        InputError: if it is another column, or a row of it cannot be used.
    """
    lengths = _sizes(column, path)
    _refuse_nulls(column, "items", path, first)
    values = column.flatten()
    if values.null_count:
        value = values.is_null().index(True).as_py()
        row = int(np.cumsum(lengths).searchsorted(value, side="right"))
        raise InputError(f"Row {first + row + 1} of '{path}' has a missing id among its items: mend or remove it.")
    return FlatLists(texts_of(values, "items", path, first).to_pylist(), lengths)


def _sizes(column: Any, path: str | Path) -> np.ndarray:
    """Return how many items the lists of an Arrow column have, int64 [n]; 0 where one is missing."""
    import pyarrow as pa

    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        raise InputError(f"'{path}' has items of the type {kind}: they must be lists of ids.")
    return column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def texts_of(column: Any, name: str, path: str | Path, first: int) -> Any:
    """Return an Arrow column of ids as one of texts.

    Raises:
        InputError: if it holds something else than texts and whole numbers, or nothing in a row.
    """
    import pyarrow as pa
    from pyarrow import compute

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise InputError(f"'{path}' has ids of the type {kind} in {name}: they must be texts.")
    _refuse_nulls(column, name, path, first)
    if not pa.types.is_integer(kind):
        texts = column.dictionary if pa.types.is_dictionary(column.type) else column
        if (compute.max(compute.binary_length(texts)).as_py() or 0) > LONGEST_TOKEN:
            raise InputError(f"'{path}' has an id of over {LONGEST_TOKEN:,} bytes in {name}: it is damaged.")
    return column.cast(pa.large_string())


def _refuse_nulls(column: Any, name: str, path: str | Path, first: int) -> None:
    if column.null_count:
        row = first + column.is_null().index(True).as_py()
        raise InputError(f"Row {row + 1} of '{path}' has no {name}: mend or remove it.")


def _opened(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}).") from error


def _lines(stream: TextIO, path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a file with their numbers from 1, each within bounds."""
    number = 0
    while True:
        number += 1
        try:
            line = stream.readline(LONGEST_LINE)
        except UnicodeDecodeError as error:
            raise InputError(f"'{path}' is no text in UTF-8 near line {number} ({first_line(error)}).") from None
        if not line:
            return
        if len(line) == LONGEST_LINE:
            raise InputError(f"Line {number} of '{path}' has over {LONGEST_LINE:,} characters: it is damaged.")
        yield number, line


def _batched(rows: Iterator[tuple[str, list[str]]], batch_size: int) -> Iterator[HistoryBatch]:
    users: list[str] = []
    lists: list[list[str]] = []
    size = 0
    for user, items in rows:
        users.append(user)
        lists.append(items)
        size += len(items)
        if len(users) == batch_size or size >= LONGEST_HISTORY:
            yield HistoryBatch(users, flat(lists))
            users, lists, size = [], [], 0
    if users:
        yield HistoryBatch(users, flat(lists))


READERS: Mapping[str, Reader] = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
