"""Reading named columns of CSV, JSON lines and Parquet files chunk by chunk, with errors that name file and line."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import pandas as pd
from pandas.io.common import get_handle

from recbole_sid.errors import InputError, first_line, nearest
from recbole_sid.util.reading import Metered

CHUNK = 10_000  # rows in memory at a time
_LARGEST_CHUNK = 1 << 29  # bytes of text that a chunk may have: compressed text could unfold to one endless row
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")

Reader = Callable[[str, "str | None"], Iterator[pd.DataFrame]]


def read_chunks(path: str, columns: Sequence[str], separator: str | None = None) -> Iterator[pd.DataFrame]:
    """Yield chunks of `columns`; the index counts the file's rows from 0.

    Args:
        path: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file; text also compressed (``.gz``, ``.bz2``, ...).
        columns: names to read. JSON lines may leave some out, which then are missing values.
        separator: of a CSV file; None for a comma, in ``.tsv`` a tab.

    Raises:
        InputError: if the file is missing or damaged, of another kind, or has no such column.
    """
    if not Path(path).is_file():
        raise InputError(f"There is no file '{path}'.")
    reader = READERS.get(kind_of(path))
    if reader is None:
        raise InputError(f"'{path}' is of a kind that cannot be read: give {', '.join(READERS)}, or text compressed.")
    done = 0
    chunks = reader(path, separator)
    while True:
        try:
            with warnings.catch_warnings():  # pandas cuts lines that are longer than the header, with a warning only
                warnings.simplefilter("error", pd.errors.ParserWarning)
                chunk = next(chunks, None)
        except InputError:
            raise
        except Exception as error:  # each library raises many kinds for damaged files
            raise InputError(
                f"'{path}' cannot be read after {done} rows, in rows {done + 1} to {done + CHUNK} "
                f"({first_line(error)}): mend or remove the damaged row."
            ) from error
        if chunk is None:
            return
        if done == 0:
            _check_columns(path, columns, chunk.columns)
        chunk = chunk.reindex(columns=list(dict.fromkeys(columns)))
        chunk.index = pd.RangeIndex(done, done + len(chunk))
        done += len(chunk)
        yield chunk


def place(path: str, row: int) -> str:
    """Return how a message begins that names the place of `row`, counted from 0."""
    kind = kind_of(path)
    if kind == ".parquet":
        return f"Row {row + 1} of '{path}'"
    return f"Line {row + (1 if kind in _JSON else 2)} of '{path}'"


def kind_of(path: str) -> str:
    """Return the suffix of `path` in lower case, without that of a compression."""
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() not in _COMPRESSED]
    return suffixes[-1] if suffixes else ""


def _csv(path: str, separator: str | None) -> Iterator[pd.DataFrame]:
    # All columns are parsed, because with usecols pandas lets lines with too many fields pass.
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "chunksize": CHUNK}
    with _metered(path) as (stream, allow):
        for chunk in pd.read_csv(stream, sep=separator or ",", index_col=False, **options):
            yield chunk
            allow()


def _tsv(path: str, separator: str | None) -> Iterator[pd.DataFrame]:
    return _csv(path, separator or "\t")


def _json_lines(path: str, separator: str | None) -> Iterator[pd.DataFrame]:
    with _metered(path) as (stream, allow):
        while lines := list(islice(stream, CHUNK)):
            # Python's own parser: that of pandas drops half characters without a word, so that two ids become one.
            yield pd.DataFrame([json.loads(line) for line in lines if line.strip()])
            allow()


@contextmanager
def _metered(path: str) -> Iterator[tuple[io.BufferedReader, Callable[[], None]]]:
    """Open a text file, unfolded if it is compressed, that gives `_LARGEST_CHUNK` bytes between calls of the second."""
    with get_handle(path, "rb", compression="infer", is_text=False) as handles:
        raw = Metered(cast(BinaryIO, handles.handle), path, _LARGEST_CHUNK)
        yield io.BufferedReader(raw), raw.allow


def _parquet(path: str, separator: str | None) -> Iterator[pd.DataFrame]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(CHUNK):
            yield batch.to_pandas()


_JSON = (".jsonl", ".ndjson", ".json")
READERS: Mapping[str, Reader] = {
    ".csv": _csv,
    ".tsv": _tsv,
    **dict.fromkeys(_JSON, _json_lines),
    ".parquet": _parquet,
}


def _check_columns(path: str, columns: Sequence[str], found: Sequence[str]) -> None:
    for name in columns:
        if name not in found:
            raise InputError(
                f"'{path}' has no column '{name}'{nearest(name, found)}; it has {', '.join(map(str, found))}."
            )
