"""Recommendations into files, a batch at a time: JSON lines, CSV and Parquet, by their suffix.

JSON lines are what `Recommendations.to_dicts` returns, one user a line. CSV has a row for each item: user, item, score,
rank. Parquet has a row for each user: user, items and scores (lists), how, unknown, search.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.serving.recommendations import Recommendations
from recbole_sid.util.files import replacing

Write = Callable[[Recommendations], None]


@contextmanager
def writing_lists(path: str | Path) -> Iterator[Write]:
    """Yield what writes recommendations, with their users, to a file; it is there, whole, if the block succeeds.

    Raises:
        InputError: if the file is of another kind, or cannot be written.
    """
    writer = writer_of(path)
    with replacing(path) as temporary, writer(temporary) as write:
        yield write


def writer_of(path: str | Path) -> Writer:
    """Return what writes files with the suffix of `path`.

    Raises:
        InputError: if there is none.
    """
    writer = WRITERS.get(Path(path).suffix.lower())
    if writer is None:
        raise InputError(f"'{path}' is of a kind that is not written: name a file {', '.join(WRITERS)}.")
    return writer


@contextmanager
def _json_lines(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as stream:

        def write(found: Recommendations) -> None:
            stream.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in found.to_dicts())

        yield write


@contextmanager
def _csv(path: Path) -> Iterator[Write]:
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["user", "item", "score", "rank"])

        def write(found: Recommendations) -> None:
            columns = found.to_columns()
            scores = ["" if score == -np.inf else repr(score) for score in columns["score"].tolist()]
            rows.writerows(zip(columns["user"], columns["item"], scores, columns["rank"].tolist(), strict=True))

        yield write


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"Writing {path.suffix} files needs a Parquet library: pip install pyarrow.") from error
    with parquet.ParquetWriter(path, list_schema()) as file:
        yield lambda found: file.write_table(list_table(found))


def list_schema() -> Any:
    """Return the Arrow schema of recommendations, a row for each user."""
    import pyarrow as pa

    lists = {"items": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
    return pa.schema({"user": pa.string(), **lists, "how": pa.string(), "unknown": pa.int64(), "search": pa.string()})


def list_table(found: Recommendations) -> Any:
    """Return recommendations as an Arrow table of `list_schema`; a score is missing where the model has none."""
    import pyarrow as pa

    columns = found.to_columns()
    offsets = np.concatenate([np.zeros(1, dtype=np.int32), np.cumsum(found.counts, dtype=np.int32)])
    scores = pa.array(columns["score"], mask=columns["score"] == -np.inf)
    users = [str(row) for row in range(len(found))] if found.users is None else list(found.users)
    arrays = [
        pa.array(users, pa.string()),
        pa.ListArray.from_arrays(offsets, pa.array(columns["item"], pa.string())),
        pa.ListArray.from_arrays(offsets, scores),
        pa.array(found.how.tolist(), pa.string()),
        pa.array(found.unknown),
        pa.array(found.search.tolist(), pa.string()),
    ]
    return pa.Table.from_arrays(arrays, schema=list_schema())


Writer = Callable[[Path], AbstractContextManager[Write]]
WRITERS: Mapping[str, Writer] = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
