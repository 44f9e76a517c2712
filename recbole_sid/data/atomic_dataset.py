"""RecBole's datasets, read by Arrow: the same tables and the same numbers of tokens, of text and of Parquet.

RecBole 1.2.1 parses text line by line in Python and keeps each id as an object of Python until it numbers them. Here
ids are numbers of 32 bits with a list of different texts (pandas calls that categorical) from when they are read.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from pandas._libs.parsers import STR_NA_VALUES
from recbole.data.dataset import Dataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_sid.compat import reading_csv_by
from recbole_sid.util.atomic_files import (
    PARQUET,
    Column,
    atomic_path,
    check_widths,
    parquet_columns,
    read_parquet_columns,
    read_text_columns,
)

_UTF_8 = ("utf-8", "utf8", "ascii")


class AtomicDataset(Dataset):
    """A dataset of RecBole whose atomic files are read by Arrow and may be Parquet (``NAME.inter.parquet``)."""

    inter_feat: Any  # a DataFrame while RecBole reads and filters, an Interaction afterwards
    row_numbers: type = np.int64  # what numbers of tokens are in that Interaction

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        if self.benchmark_filename_list is None and (path := _parquet(dataset_path, token, "inter")):
            self.inter_feat = self._load_feat(path, FeatureSource.INTERACTION)
        else:
            super()._load_inter_feat(token, dataset_path)

    def _load_user_or_item_feat(self, token: str, dataset_path: str, source: Any, field_name: str) -> Any:
        path = _parquet(dataset_path, token, source.value)
        if path is None:
            return super()._load_user_or_item_feat(token, dataset_path, source, field_name)
        field = getattr(self, field_name)
        feat = self._load_feat(path, source)
        if feat is not None and field not in feat:
            raise ValueError(f"{field_name} must be loaded if {source.value}_feat is loaded.")
        if feat is not None:
            feat = feat.drop_duplicates(subset=[field], keep="first")
        if field in self.field2source:
            self.field2source[field] = FeatureSource(source.value + "_id")
        return feat

    def _load_feat(self, filepath: str, source: Any) -> Any:
        if str(filepath).endswith(PARQUET):
            return self._load_parquet(filepath, source)
        with reading_csv_by(read_csv):
            found = super()._load_feat(filepath, source)
        pa.default_memory_pool().release_unused()  # of gigabytes that it keeps for later otherwise
        return found

    def _load_parquet(self, path: str, source: Any) -> pd.DataFrame | None:
        """Return the wanted fields of a Parquet file and note their properties, as `_load_feat` does of text."""
        load_col, unload_col = self._get_load_and_unload_col(source)
        wanted = [
            column
            for column in parquet_columns(path, (self.uid_field, self.iid_field))
            if (load_col is None or column.field in load_col) and column.field not in (unload_col or ())
        ]
        if not wanted:
            return None
        series = {}
        for column, values in zip(
            wanted, read_parquet_columns(path, wanted, self.config["seq_separator"]), strict=True
        ):
            type_ = FeatureType(column.type)
            self.field2source[column.field], self.field2type[column.field] = source, type_
            if type_ in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ):
                self.field2bucketnum[column.field] = 2
            if type_ in (FeatureType.TOKEN, FeatureType.FLOAT):
                self.field2seqlen[column.field] = 1
                ids = (self.uid_field, self.iid_field)
                series[column.field] = _series(values, path, column, column.field in ids)
            else:
                series[column.field] = self._sequences(values, path, column)
        return pd.DataFrame(series, copy=False)

    def _sequences(self, values: pa.ChunkedArray, path: str, column: Column) -> pd.Series:
        """Return lists as an array for each row, cut to ``seq_len``, as RecBole keeps them."""
        whole = values.combine_chunks()
        flat = whole.flatten()
        if column.type == "token_seq":
            check_widths(path, column.field, flat.unique(), strict=True)
        flat = np.asarray(flat.to_pandas(), dtype=str if column.type == "token_seq" else np.float64)
        lengths = whole.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        rows = np.split(flat, np.cumsum(lengths))[:-1]  # what is left behind the last is empty
        longest = (self.config["seq_len"] or {}).get(column.field, int(lengths.max(initial=0)))
        self.field2seqlen[column.field] = min(longest, int(lengths.max(initial=0)))
        found = np.empty(len(rows), dtype=object)
        found[:] = [row[:longest] for row in rows]
        return pd.Series(found)

    def _remap(self, remap_list: list[tuple[pd.DataFrame, str, FeatureType]]) -> None:
        """Number the tokens of fields that share their numbers, from 1 in the order in which they appear."""
        if not remap_list:
            return
        parts = [_coded(feat[field], kind) for feat, field, kind in remap_list]
        in_all, names = _shared_codes(parts)
        numbers, order = _by_appearance(in_all[0] if len(in_all) == 1 else np.concatenate(in_all), len(names))
        tokens = np.array(["[PAD]", *names[order]])
        by_token = TokenNumbers(tokens)
        start = 0
        for (feat, field, kind), codes in zip(remap_list, in_all, strict=True):
            if field not in self.field2id_token:
                self.field2id_token[field], self.field2token_id[field] = tokens, by_token
            here = numbers[start : start + len(codes)]
            start += len(codes)
            if kind == FeatureType.TOKEN:
                feat[field] = here
            else:
                lengths = feat[field].agg(len)
                feat[field] = np.split(here.astype(np.int64), np.cumsum(lengths))[:-1]

    def _dataframe_to_interaction(self, data: pd.DataFrame) -> Interaction:
        """Convert as RecBole does, columns of single numbers without a loop over them."""
        plain = {}
        numbers = self.row_numbers if data is self.inter_feat else np.int64
        for field in data:
            kind = self.field2type[field]
            if kind == FeatureType.TOKEN:
                plain[field] = torch.from_numpy(np.require(data[field].to_numpy(numbers), requirements="W"))
            elif kind == FeatureType.FLOAT and field not in self.config["numerical_features"]:
                plain[field] = torch.from_numpy(data[field].to_numpy(np.float32, copy=True))
        others = [field for field in data if field not in plain]
        plain |= super()._dataframe_to_interaction(data[others]).interaction if others else {}
        return Interaction({field: plain[field] for field in data})

    def _filter_by_inter_num(self) -> None:
        """Keep users and items with as many interactions as the intervals say, again and again until all have."""
        wanted = [self._parse_intervals_str(self.config[f"{side}_inter_num_interval"]) for side in ("user", "item")]
        if self.uid_field is None or self.iid_field is None or wanted == [None, None]:
            return
        sides = [
            _Side.of(self, field, feat, interval)
            for field, feat, interval in zip((self.uid_field, self.iid_field), ("user", "item"), wanted, strict=True)
        ]
        if any((codes < 0).any() for side in sides for codes in (side.codes, side.feat_codes) if codes is not None):
            super()._filter_by_inter_num()
            return
        kept = np.ones(len(self.inter_feat), dtype=bool)
        while True:
            found = [side.banned(kept) for side in sides]
            if not any(banned.any() for banned in found):
                break
            for side, banned in zip(sides, found, strict=True):
                kept &= ~banned[side.codes]
                side.listed[banned] = False
        if not kept.all():
            self.inter_feat = self.inter_feat.take(np.flatnonzero(kept))
        for side, feat in zip(sides, ("user_feat", "item_feat"), strict=True):
            if side.feat_codes is not None:
                setattr(self, feat, getattr(self, feat).take(np.flatnonzero(side.listed[side.feat_codes])))


class _Side(NamedTuple):
    """The users or the items while they are filtered by their number of interactions.

    Attributes:
        codes: of the interactions.
        feat_codes: of the rows of the table of users or items, if there is one.
        listed: bool [n], which are in that table still.
        dataset, interval: decide which numbers are allowed.
    """

    codes: np.ndarray
    feat_codes: np.ndarray | None
    listed: np.ndarray
    dataset: Dataset
    interval: Any

    @classmethod
    def of(cls, dataset: Any, field: str, feat: str, interval: Any) -> _Side:
        table = getattr(dataset, f"{feat}_feat")
        parts = [_coded(dataset.inter_feat[field], FeatureType.TOKEN)]
        if table is not None:
            parts.append(_coded(table[field], FeatureType.TOKEN))
        shared, names = _shared_codes(parts)
        listed = np.zeros(len(names), dtype=bool)
        feat_codes = shared[1] if table is not None else None
        if feat_codes is not None:
            listed[feat_codes] = True
        return cls(shared[0], feat_codes, listed, dataset, interval)

    def banned(self, kept: np.ndarray) -> np.ndarray:
        """Return which have another number of kept interactions than they may, bool [n]."""
        if not self.interval:
            return np.zeros(len(self.listed), dtype=bool)
        counts = np.bincount(self.codes[kept], minlength=len(self.listed))
        banned = (counts > 0) & ~self.dataset._within_intervals(counts, self.interval)
        return banned | (self.listed & (counts < self.interval[0][1]))


class _Coded(NamedTuple):
    """Tokens as numbers int [n], -1 for none, of different texts [m]."""

    codes: np.ndarray
    texts: np.ndarray


def _coded(values: pd.Series, kind: FeatureType) -> _Coded:
    if kind == FeatureType.TOKEN_SEQ:
        return _Coded(*pd.factorize(values.agg(np.concatenate)))
    if isinstance(values.dtype, pd.CategoricalDtype):
        return _Coded(values.cat.codes.to_numpy(), values.cat.categories.to_numpy())
    return _Coded(*pd.factorize(values.to_numpy()))


def _shared_codes(parts: Sequence[_Coded]) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the codes of each part among the texts of all, int32, -1 for none, and these texts."""
    unified, names = pd.factorize(np.concatenate([part.texts for part in parts]))
    first = np.cumsum([0] + [len(part.texts) for part in parts])
    shared = []
    for part, start, end in zip(parts, first[:-1], first[1:], strict=True):
        of_code = np.append(unified[start:end], -1).astype(np.int32)  # the last place is for code -1
        shared.append(of_code[part.codes])
    return shared, names


def _by_appearance(codes: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return codes int [m], -1 for none, numbered from 1 as they first appear, 0 for none, and codes by this number."""
    known = codes >= 0
    some = codes if known.all() else codes[known]
    _, order = pd.factorize(some)
    number = np.zeros(n + 1, dtype=np.int32)  # the last for none
    number[order] = np.arange(1, len(order) + 1)
    return number[codes], order


class TokenNumbers(MutableMapping[str, int]):
    """The number of each token, as a dictionary that is made when the first one is asked for.

    Args:
        tokens: str [n], by their numbers.
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self._tokens: np.ndarray | None = tokens
        self._made: dict[str, int] = {}

    @property
    def _numbers(self) -> dict[str, int]:
        if self._tokens is not None:
            self._made = {token: number for number, token in enumerate(self._tokens.tolist())}
            self._tokens = None
        return self._made

    def __getitem__(self, token: str) -> int:
        return self._numbers[token]

    def __setitem__(self, token: str, number: int) -> None:
        self._numbers[token] = number

    def __delitem__(self, token: str) -> None:
        del self._numbers[token]

    def __iter__(self) -> Iterator[str]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


_BY_ARROW: dict[Any, Any] = {}


def read_by_arrow(recboles: Any) -> Any:
    """Return a class of RecBole's datasets that reads its files as `AtomicDataset` does, under the same name."""
    if recboles not in _BY_ARROW:
        made = type(recboles.__name__, (AtomicDataset, recboles), {"__module__": __name__, "__doc__": recboles.__doc__})
        _BY_ARROW[recboles] = made
    return _BY_ARROW[recboles]


def read_csv(path: str, *, usecols: list[str], dtype: dict[str, Any], **options: Any) -> pd.DataFrame | None:
    """Read an atomic file as RecBole's call of `pandas.read_csv` does, or return None where it takes pandas.

    Args:
        path: the file.
        usecols: columns, in the file's order.
        dtype: not used: columns are ``name:type``.
        options: ``delimiter`` and ``encoding``.
    """
    if (options["encoding"] or "utf-8").lower() not in _UTF_8 or len(set(usecols)) < len(usecols):
        return None
    columns = [Column(name, *name.split(":")) for name in usecols]
    types = {column.name: column.type for column in columns}
    found = read_text_columns(path, options["delimiter"], types, STR_NA_VALUES)
    if found is None:
        return None
    series = {
        column.name: _series(values, path, column, strict=False) for column, values in zip(columns, found, strict=True)
    }
    return pd.DataFrame(series, copy=False)


def _series(values: pa.ChunkedArray, path: str, column: Column, strict: bool) -> pd.Series:
    if column.type == "token":
        whole = values.combine_chunks()
        check_widths(path, column.field, whole.dictionary, strict)
        codes = whole.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return pd.Series(pd.Categorical.from_codes(codes, whole.dictionary.to_numpy(zero_copy_only=False)))
    if column.type == "float":
        return pd.Series(values.to_numpy())
    return values.to_pandas().astype(object)


def _parquet(folder: str, dataset: str, source: str) -> str | None:
    path = atomic_path(folder, dataset, source)
    return str(path) if path.name.endswith(PARQUET) else None
