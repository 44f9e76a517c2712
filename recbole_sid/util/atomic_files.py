"""RecBole's atomic files as Arrow columns: plain text read in blocks, and the same tables as Parquet.

Ids come as dictionaries, each text once beside numbers of 32 bits. A column is ``field:type``, of type token,
token_seq, float or float_seq.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from recbole_sid.errors import InputError, first_line
from recbole_sid.util.item_tokens import CHARACTER, LARGEST_ARRAY, LONGEST_TOKEN
from recbole_sid.util.reading import check_parquet, refuse_unfolding, written_out

if TYPE_CHECKING:
    import pyarrow as pa  # at run time where a file is read

TYPES = ("token", "token_seq", "float", "float_seq")
PARQUET = ".parquet"
_BLOCK = 1 << 25  # bytes of text that are read at a time
_LONGEST_FIELD = 1 << 17  # bytes, as Python's csv module has it
_EXACT = 1 << 53  # whole numbers below it are exact as float64, and so are their quotients by 10 to the 22nd
_DIGITS = 17  # that pandas reads of a number


class Column(NamedTuple):
    """A column of an atomic file."""

    name: str  # as the file has it
    field: str
    type: str  # of TYPES; empty where the file holds nothing of these types


def atomic_path(folder: str | os.PathLike[str], dataset: str, source: str) -> Path:
    """Return the file ``dataset.source``, or ``dataset.source.parquet`` if that is there instead.

    Raises:
        InputError: if both are there.
    """
    text = Path(folder) / f"{dataset}.{source}"
    packed = text.with_name(text.name + PARQUET)
    if not packed.is_file():
        return text
    if text.is_file():
        raise InputError(f"'{folder}' has both '{text.name}' and '{packed.name}': which is meant? Remove one.")
    return packed


def read_text_columns(
    path: str | os.PathLike[str], separator: str, types: Mapping[str, str], missing: Iterable[str]
) -> list[pa.ChunkedArray] | None:
    """Return columns of a plain text file in UTF-8, or None if only a parser of quotes and oddities reads it rightly.

    Plain is a file of two columns at least without quotation marks, all lines of which have as many fields as the
    first, and whose numbers have a point and at most 15 digits or so: then every parser finds the same in it.

    Args:
        path: the file, whose first line names its columns.
        separator: what stands between columns.
        types: type by name of the columns that are wanted.
        missing: texts that stand for no value.

    Returns:
        of each column: token as dictionaries of strings, float as float64, sequences as the strings that hold them.
    """
    import pyarrow as pa
    from pyarrow import compute, csv

    if len(separator) != 1 or not separator.isascii() or separator in '\r\n"' or not _is_plain(path):
        return None
    kinds = {
        name: pa.dictionary(pa.int32(), pa.string()) if kind == "token" else pa.string() for name, kind in types.items()
    }
    options = csv.ConvertOptions(
        column_types=kinds, include_columns=list(kinds), null_values=list(missing), strings_can_be_null=True
    )
    found: list[list[pa.Array]] = [[] for _ in kinds]
    try:
        batches = csv.open_csv(
            os.fspath(path),
            read_options=csv.ReadOptions(block_size=_BLOCK),
            parse_options=csv.ParseOptions(delimiter=separator, quote_char=False, double_quote=False),
            convert_options=options,
        )
        if len(batches.schema) < 2:
            return None
        for batch in batches:
            for parts, values, kind in zip(found, batch.columns, types.values(), strict=True):
                texts = values.dictionary if kind == "token" else values
                if (compute.max(compute.binary_length(texts)).as_py() or 0) > _LONGEST_FIELD:
                    return None
                numbers = _numbers(values) if kind == "float" else values
                if numbers is None:
                    return None
                parts.append(numbers)
    except (pa.ArrowException, ValueError):  # lines of other lengths, no UTF-8: told by who reads it then
        return None
    if not any(len(part) for part in found[0]):
        return None
    return [pa.chunked_array(parts).unify_dictionaries() for parts in found]


def _is_plain(path: str | os.PathLike[str]) -> bool:
    if not os.path.getsize(path):
        return False
    with open(path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b'"') < 0 and content.find(b"\0") < 0


def _numbers(texts: pa.Array) -> pa.Array | None:
    """Return texts as float64, or None where parsers that round in other ways may find other numbers."""
    import pyarrow as pa
    from pyarrow import compute

    if any(compute.any(compute.match_substring(texts, sign)).as_py() for sign in "xX"):
        return None  # 0x1F is 31 to Arrow and no number to others
    try:
        digits = texts.cast(pa.int64())
        numbers = None
    except pa.ArrowInvalid:
        if (compute.max(compute.binary_length(texts)).as_py() or 0) > _DIGITS + 2:
            return None
        try:
            plain = compute.replace_substring(texts, ".", "")
            digits, numbers = plain.cast(pa.int64()), texts.cast(pa.float64())
        except pa.ArrowInvalid:
            return None
        if (compute.max(compute.binary_length(plain)).as_py() or 0) > _DIGITS:
            return None
    bounds = compute.min_max(digits).as_py()
    if bounds["min"] is not None and (bounds["min"] <= -_EXACT or bounds["max"] >= _EXACT):
        return None
    return digits.cast(pa.float64()) if numbers is None else numbers


def parquet_columns(path: str | os.PathLike[str], ids: Iterable[str]) -> list[Column]:
    """Return the columns of a Parquet file: by their names ``field:type``, else by what they hold.

    A column of anything else, such as structs, has no type; `read_parquet_columns` refuses it.

    Args:
        path: the file.
        ids: fields that are tokens whatever they hold.

    Raises:
        InputError: if the file is damaged, or a column has no name that an atomic file may have.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(f"'{path}' is no readable Parquet file ({first_line(error)}).") from error
    columns = [_column(path, entry.name, entry.type, set(ids)) for entry in schema]
    fields = [column.field for column in columns]
    twice = next((field for field in fields if fields.count(field) > 1), None)
    if twice is not None:
        raise InputError(f"'{path}' has the field '{twice}' twice: rename one of its columns.")
    return columns


def _column(path: str | os.PathLike[str], name: str, kind: pa.DataType, ids: set[str]) -> Column:
    field, colon, type_ = name.partition(":")
    if colon and type_ not in TYPES:
        raise InputError(f"The column '{name[:80]}' of '{path}' must be name or name:type, of type {', '.join(TYPES)}.")
    if not colon:
        type_ = "token" if field in ids else _type_of(kind)
    return Column(name, field, type_)


def _type_of(kind: pa.DataType) -> str:
    """Return the type of a field that has no type in its name, "" for none."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        inner = _type_of(kind.value_type)
        return f"{inner}_seq" if inner in ("token", "float") else ""
    if types.is_string(kind) or types.is_large_string(kind):
        return "token"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_timestamp(kind):
        return "float"
    return ""


def read_parquet_columns(
    path: str | os.PathLike[str], columns: Sequence[Column], separator: str = " "
) -> list[pa.ChunkedArray]:
    """Return columns of a Parquet file: token as dictionaries of strings, float as float64, the others as lists.

    Whole numbers become the tokens that they are written as, times the seconds since 1970; a token of no characters is
    none. A sequence may be a list, or one text with `separator` between its parts, as in atomic files of text.

    Raises:
        InputError: if the file is damaged, unfolds to more than it should, or holds something else than its types say,
            or a column has no type.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            check_parquet(file, path)
            schema = file.schema_arrow
        for column in columns:
            _require_type(path, column, schema)
        texts = [column.name for column in columns if _is_text(schema.field(column.name).type)]
        with parquet.ParquetFile(path, read_dictionary=texts) as file:  # a text of megabytes is stored once
            table = file.read(columns=[column.name for column in columns])
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"'{path}' is no readable Parquet file ({first_line(error)}).") from error
    return [_converted(path, column, table.column(column.name), separator) for column in columns]


def _require_type(path: str | os.PathLike[str], column: Column, schema: pa.Schema) -> None:
    if not column.type:
        kind = str(schema.field(column.name).type)
        raise InputError(
            f"The column '{column.name[:80]}' of '{path}' is of type {kind[:80]}: a field is text, a number, a time, "
            "or a list of texts or numbers. Leave it out of load_col, or turn it into one of these."
        )


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_dictionary(kind)


def _converted(
    path: str | os.PathLike[str], column: Column, values: pa.ChunkedArray, separator: str
) -> pa.ChunkedArray:
    import pyarrow as pa

    try:
        if column.type == "token":
            return _tokens(values)
        if column.type == "float":
            return _floats(values)
        if _is_text(values.type):
            values = _split(path, values, separator)
        return values.cast(pa.list_(pa.string() if column.type == "token_seq" else pa.float64()))
    except pa.ArrowException as error:
        raise InputError(
            f"The column '{column.name}' of '{path}' holds {values.type}, which is no {column.type} "
            f"({first_line(error)})."
        ) from error


def _split(path: str | os.PathLike[str], values: pa.ChunkedArray, separator: str) -> pa.ChunkedArray:
    """Return the parts of texts, without those of no characters.

    Raises:
        InputError: if the texts, or their parts as numbers, are more than the file may unfold to.
    """
    import numpy as np
    import pyarrow as pa
    from pyarrow import compute, types

    texts = written_out(values, path) if types.is_dictionary(values.type) else values
    texts = texts.cast(pa.string()).combine_chunks().fill_null("")
    n_separators = compute.sum(compute.count_substring(texts, separator)).as_py() or 0
    refuse_unfolding(8 * (n_separators + len(texts)), path)
    lists = compute.split_pattern(texts, separator)
    parts = lists.flatten()
    filled = compute.not_equal(parts, "")
    n_parts = np.bincount(compute.list_parent_indices(lists).filter(filled), minlength=len(lists))
    ends = np.concatenate([[0], n_parts.cumsum()]).astype(np.int32)
    return pa.chunked_array([pa.ListArray.from_arrays(pa.array(ends), parts.filter(filled))])


def _tokens(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    from pyarrow import compute, types

    if types.is_floating(values.type):
        raise pa.ArrowInvalid("a number with a fraction has many ways to be written")
    if not types.is_dictionary(values.type):
        values = values.dictionary_encode()
    values = values.cast(pa.dictionary(pa.int32(), pa.string())).unify_dictionaries()
    chunks = []
    for chunk in values.chunks:
        empty = compute.equal(chunk.dictionary, "")
        indices = chunk.indices
        if compute.any(empty).as_py():
            indices = compute.if_else(compute.equal(indices, compute.index(empty, True)), None, indices)
        chunks.append(pa.DictionaryArray.from_arrays(indices, chunk.dictionary))
    return pa.chunked_array(chunks, values.type)


def _floats(values: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa
    from pyarrow import compute, types

    if types.is_timestamp(values.type):
        microseconds = values.cast(pa.timestamp("us", values.type.tz), safe=False).cast(pa.int64())
        return compute.divide(microseconds.cast(pa.float64(), safe=False), 1e6)
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    return values.cast(pa.float64(), safe=False)


def check_widths(path: str | os.PathLike[str], field: str, texts: pa.Array, strict: bool) -> None:
    """Refuse texts of an array in numpy, every place of which is as wide as the longest, that would fill the memory.

    Args:
        path, field: named in the message.
        texts: all different texts of the field.
        strict: whether one of over `LONGEST_TOKEN` characters is refused too.

    Raises:
        InputError: if they do.
    """
    from pyarrow import compute

    widest = compute.max(compute.utf8_length(texts)).as_py() or 0
    if strict and widest > LONGEST_TOKEN:
        raise InputError(
            f"'{path}' has a value of {widest:,} characters in its field '{field}', where at most "
            f"{LONGEST_TOKEN:,} are read: shorten it, or leave the field out of load_col."
        )
    if widest * len(texts) * CHARACTER > LARGEST_ARRAY:
        raise InputError(
            f"'{path}' has {len(texts):,} texts of up to {widest:,} characters in its field '{field}', each of "
            "which takes the longest one's memory: shorten the longest, or leave the field out of load_col."
        )


def texts_of(values: pa.ChunkedArray, separator: str) -> list[Any]:
    """Return values as an atomic file would hold them, "" for none."""
    from pyarrow import types

    if types.is_list(values.type):
        return [separator.join(map(str, row or ())) for row in values.to_pylist()]
    return ["" if value is None else str(value) for value in values.to_pylist()]
