"""Reading files from elsewhere in bounded memory: what would unfold to more than it should is refused in a sentence.

A bound is never met by honest files of today's sizes; it keeps a small hostile or damaged one from filling the memory.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from recbole_sid.errors import InputError, first_line

if TYPE_CHECKING:
    import yaml  # at run time where YAML is read: what is deployed reads none

LARGEST_JSON = 1 << 30  # bytes of a JSON file; Python needs up to some twenty times as many
LARGEST_YAML = 1 << 20  # bytes of a YAML file
LARGEST_NODES = 100_000  # values of a YAML file, those of aliases counted every time they are named
# Bytes that a compressed file may unfold to: so many, or so many times its own.
_LARGEST_UNFOLDED = 1 << 30
_LARGEST_RATIO = 200


def read_json(path: str | os.PathLike[str], pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the content of a JSON file.

    Args:
        path: the file.
        pairs_hook: makes something else than a dictionary of an object's pairs.

    Raises:
        InputError: if it is missing, too large or no JSON, nests too deeply, or has half a character (a surrogate).
    """
    return parse_json(read_text(path, "JSON", LARGEST_JSON), f"'{path}'", pairs_hook)


def parse_json(text: str, source: str, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return the value that `text` stands for; `source` is what messages call it. As `read_json`."""
    try:
        value = json.loads(text, object_pairs_hook=pairs_hook)
    except RecursionError:
        raise InputError(f"{source} is no JSON that can be read: it nests too deeply.") from None
    except ValueError as error:  # no JSON, or a number of thousands of digits
        raise InputError(f"{source} is no JSON file ({first_line(error)}).") from error
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{source} has the text {_around(error)}, which holds half a character (a lone surrogate): mend it."
            ) from None
    return value


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _around(error: UnicodeEncodeError) -> str:
    return ascii(error.object[max(0, error.start - 10) : error.start + 10])


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary of an object's pairs; a `pairs_hook`.

    Raises:
        ValueError: if a name occurs twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in it")
    return found


def read_yaml(path: str | os.PathLike[str], loader: Any = None) -> Any:
    """Return the content of a YAML file, read by `loader`, by default yaml's safe one.

    Raises:
        InputError: if it is missing, too large or no YAML, nests too deeply, or unfolds by its aliases.
    """
    return parse_yaml(read_text(path, "YAML", LARGEST_YAML), f"'{path}'", loader)


def parse_yaml(text: str, source: str, loader: Any = None) -> Any:
    """Return the value that `text` stands for; `source` is what messages call it. As `read_yaml`."""
    import yaml

    loader = loader or yaml.SafeLoader
    try:
        node = yaml.compose(text, Loader=loader)
        if node is not None and _n_values(node, {}) > LARGEST_NODES:
            raise InputError(f"{source} unfolds by its aliases (*name) to over {LARGEST_NODES:,} values: write it out.")
        return yaml.load(text, Loader=loader)
    except RecursionError:
        raise InputError(f"{source} is no YAML that can be read: it nests too deeply.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2024-13-45
        if isinstance(error, InputError):
            raise
        raise InputError(f"{source} is no valid YAML ({' '.join(str(error).split())[:300]}).") from error


def _n_values(node: yaml.Node, known: dict[int, float]) -> float:
    """Return how many values `node` stands for with its aliases written out; infinitely many if it holds itself."""
    import yaml

    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_n_values(part, known) for part in parts)
    return known[id(node)]


def read_text(path: str | os.PathLike[str], kind: str, largest: int) -> str:
    """Return the text of a file in UTF-8.

    Args:
        path: the file.
        kind: what messages call such a file.
        largest: bytes that it may have.

    Raises:
        InputError: if it is missing, too large, or no text.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(largest + 1)
    except FileNotFoundError:
        raise InputError(f"There is no file '{path}'.") from None
    except OSError as error:
        raise InputError(f"'{path}' cannot be read ({error.strerror}).") from error
    if len(content) > largest:
        raise InputError(f"'{path}' is larger than {largest:,} bytes, the most that is read of a {kind} file.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no {kind} file in UTF-8 ({first_line(error)}).") from error


class Header(NamedTuple):
    """What an array's header says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Arrays(Mapping[str, np.ndarray]):
    """The arrays of an ``.npz`` file, each read when it is asked for.

    Attributes:
        headers: shape and type of each, known before it is read.
    """

    def __init__(self, archive: zipfile.ZipFile, headers: dict[str, Header]) -> None:
        self._archive = archive
        self.headers = headers

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.headers:
            raise KeyError(f"it has no array '{name}'")
        with self._archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def __iter__(self) -> Iterator[str]:
        return iter(self.headers)

    def __len__(self) -> int:
        return len(self.headers)


@contextmanager
def open_arrays(path: str | os.PathLike[str]) -> Iterator[Arrays]:
    """Open an ``.npz`` file whose headers, sizes and compression agree, so that reading takes what they say.

    Raises:
        InputError: if it unfolds to more than `largest_unfolded` bytes.
        ValueError, OSError, zipfile.BadZipFile and others: if it is damaged or no such file.
    """
    with zipfile.ZipFile(path) as archive:
        check_archive(archive, path)
        headers = {}
        for member in archive.infolist():
            name = member.filename
            if not name.endswith(".npy"):
                raise ValueError(f"it holds '{name[:100]}', which is no array")
            with archive.open(member) as stream:
                headers[name.removesuffix(".npy")] = _header(stream, member.file_size)
        yield Arrays(archive, headers)


def check_archive(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> None:
    """Refuse a zip archive, of numpy or torch, that unfolds to more than it should.

    Raises:
        InputError: if it does.
    """
    members = archive.infolist()
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if any(member.compress_type not in known for member in members):  # others unfold without a bound
        raise InputError(f"'{path}' is compressed in a way that neither numpy nor torch writes: it is not read.")
    if len({member.filename for member in members}) < len(members):
        raise InputError(f"'{path}' names a member twice: it is damaged.")
    refuse_unfolding(sum(member.file_size for member in members), path)


def largest_unfolded(path: str | os.PathLike[str]) -> int:
    """Return how many bytes a compressed file may unfold to: 1 GiB or, for a large file, 200 times its own."""
    return max(_LARGEST_UNFOLDED, _LARGEST_RATIO * os.path.getsize(path))


def refuse_unfolding(size: int, path: str | os.PathLike[str]) -> None:
    """Raise InputError if `size` bytes, which a file unfolds to, are more than `largest_unfolded`."""
    if size > largest_unfolded(path):
        raise InputError(
            f"'{path}' of {os.path.getsize(path):,} bytes unfolds to {size:,}, over {largest_unfolded(path):,}: "
            "it is damaged or made to fill the memory."
        )


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an ``.npy`` file whose header agrees with its size.

    Raises:
        ValueError, OSError and others: if it is damaged or no such file.
    """
    with open(path, "rb") as stream:
        _header(stream, os.path.getsize(path))
    return np.load(path, allow_pickle=False)


def check_array_file(path: str | os.PathLike[str]) -> None:
    """Refuse an ``.npy`` file that holds Python objects, which numpy would unpickle if asked to, or is damaged.

    Raises:
        InputError: if it is such a file.
    """
    try:
        with open(path, "rb") as stream:
            _header(stream, os.path.getsize(path))
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"'{path}' is no .npy array of numbers ({first_line(error)}).") from error


_HEADER_READERS: dict[tuple[int, int], Callable[[Any], tuple[Any, bool, np.dtype]]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _header(stream: Any, size: int) -> Header:
    """Return the header at the front of an array of `size` bytes; refuse one that speaks of another size."""
    version = np.lib.format.read_magic(stream)
    if version not in _HEADER_READERS:
        raise ValueError(f"its format is version {version}")
    shape, _, dtype = _HEADER_READERS[version](stream)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    if any(length < 0 for length in shape) or math.prod(shape) * dtype.itemsize != size - stream.tell():
        raise ValueError(f"its header speaks of {shape} numbers of {dtype.itemsize} bytes, which it does not hold")
    return Header(tuple(shape), dtype)


def load_tensors(path: str | os.PathLike[str], **options: Any) -> Any:
    """Return what torch loads of a file of tensors without running code.

    Args:
        path: the file.
        options: of `torch.load`, such as map_location (the CPU by default) and mmap.

    Raises:
        InputError: as `check_tensor_file`.
        Exception: of many kinds, if it is damaged or holds anything else.
    """
    import torch

    check_tensor_file(path)
    return torch.load(path, weights_only=True, **{"map_location": "cpu", **options})


def check_tensor_file(path: str | os.PathLike[str]) -> None:
    """Refuse what `torch.load` would do more with than read: archives with programs (TorchScript), which it hands to
    `torch.jit.load` whatever it was told of pickles, and tar archives, whose members it extracts.

    Raises:
        InputError: if it is such a file, or unfolds to more than `largest_unfolded` bytes.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(f"/{name}".endswith("/constants.pkl") for name in archive.namelist()):  # by this torch tells
                raise InputError(
                    f"'{path}' holds a program (TorchScript), which would run when it is loaded: give a checkpoint of "
                    "weights, written by `torch.save(model.state_dict(), ...)`."
                )
            check_archive(archive, path)
    elif tarfile.is_tarfile(path):
        raise InputError(f"'{path}' is a tar archive, of versions of torch before 0.4: save it again with a later one.")


def is_plain_tensor(value: Any) -> bool:
    """Say whether `value` is a dense tensor with a place in memory for each number: one number can pose as many."""
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and not value.is_quantized
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def read_parquet(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> Any:
    """Return a Parquet file, or some of its columns, as an Arrow table.

    Raises:
        InputError: if it unfolds to more than `largest_unfolded` bytes, or pyarrow is missing.
        OSError, pyarrow.ArrowException: if it is missing or damaged.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(f"Reading '{path}' needs a Parquet library: pip install pyarrow.") from error
    with parquet.ParquetFile(path) as file:
        check_parquet(file, path)
        for name in columns or ():
            if name not in file.schema_arrow.names:
                raise pa.ArrowInvalid(f"it has no column '{name}'")
        leaves = [file.schema.column(number) for number in range(file.metadata.num_columns)]
    # Text is read as numbers into a dictionary: a text of megabytes may stand in every row and be stored once.
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY" and "." not in leaf.path]
    with parquet.ParquetFile(path, read_dictionary=texts) as file:
        table = file.read(columns=None if columns is None else list(columns))
    for position, column in enumerate(table.columns):
        if pa.types.is_dictionary(column.type) and table.column_names[position] in texts:
            table = table.set_column(position, table.column_names[position], written_out(column, path))
    return table


def check_parquet(file: Any, path: str | os.PathLike[str]) -> None:
    """Refuse an open Parquet file that unfolds to more than it should, one text that stands in many rows counted once.

    Raises:
        InputError: if it does.
    """
    metadata = file.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(metadata.num_columns)]
    n_values = sum(max(chunk.num_values, 0) for chunk in chunks) + metadata.num_rows
    refuse_unfolding(max(8 * n_values, sum(chunk.total_uncompressed_size for chunk in chunks)), path)


def written_out(column: Any, path: str | os.PathLike[str]) -> Any:
    """Return a dictionary column of texts with each text in its rows.

    Raises:
        InputError: if that is more than the file may unfold to.
    """
    refuse_unfolding(_text_bytes(column), path)
    return column.cast(column.type.value_type)


def _text_bytes(column: Any) -> int:
    """Return how many bytes the texts of a dictionary column have, written out."""
    from pyarrow import compute

    lengths = (compute.take(compute.binary_length(chunk.dictionary), chunk.indices) for chunk in column.chunks)
    return sum(compute.sum(length.cast("int64")).as_py() or 0 for length in lengths)


class Metered(io.RawIOBase):
    """A binary stream of which at most so many bytes are read between two calls of `allow`: bounds rows of any length.

    Args:
        stream: what is read.
        path: how messages call it.
        largest: the number of bytes.
    """

    def __init__(self, stream: BinaryIO, path: str, largest: int) -> None:
        super().__init__()
        self._stream, self._path, self._largest, self._left = stream, path, largest, largest

    def allow(self) -> None:
        """Begin to count anew."""
        self._left = self._largest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._stream.read(len(buffer))
        self._left -= len(content)
        if self._left < 0:
            raise InputError(f"'{self._path}' has more than {self._largest:,} bytes in a few rows: it is damaged.")
        buffer[: len(content)] = content
        return len(content)
