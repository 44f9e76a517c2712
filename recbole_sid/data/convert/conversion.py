"""From CSV, JSON lines or Parquet to RecBole's atomic files, chunk by chunk: memory grows with users and items only.

`AMAZON_2023` is the layout of the 5-core last_out files and the metadata of Amazon Reviews 2023 (Y. Hou et al.,
"Bridging Language and Items for Retrieval and Recommendation", arXiv 2403.03952).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from recbole_sid.data.convert.chunks import place, read_chunks
from recbole_sid.errors import InputError, nearest
from recbole_sid.util.files import replacing
from recbole_sid.util.item_tokens import LONGEST_TOKEN
from recbole_sid.util.names import check_dataset_name
from recbole_sid.util.progress import progress

# Users, items and interactions as the literature gives them for the 5-core files (arXiv 2605.12617, table of datasets).
PUBLISHED = {
    "Musical_Instruments": (57_439, 24_587, 511_836),
    "Industrial_and_Scientific": (50_985, 25_848, 412_947),
    "Video_Games": (94_762, 25_612, 814_586),
}
AMAZON_2023: Mapping[str, Any] = {
    "user": "user_id",
    "item": "parent_asin",
    "time": "timestamp",
    "rating": "rating",
    "item_fields": ("title", "features", "categories", "description"),
}
SOURCES: Mapping[str, Mapping[str, Any]] = {"amazon2023": AMAZON_2023}
_SPLITS = ("train", "valid", "test")  # in the order of time
# What pandas, and so RecBole, reads as a missing value.
_MISSING_WORDS = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|")
)


@dataclass(frozen=True)
class ConvertOptions:
    """What to convert.

    Attributes:
        dataset: name of the result.
        output: folder that gets ``dataset/dataset.inter`` and ``.item``.
        interactions: files, one interaction a row; for equal times their order and that of their rows is the order.
        user: column of the user id.
        item: column of the item id.
        time: column of the time: a number, or a date of ISO 8601, which becomes seconds since 1970.
        rating: column of the rating, or None.
        items: file with one item a row, or None.
        item_id: its column of the item id.
        item_fields: its columns to write, as text.
        separator: of CSV files, or None for the usual one.
        show_progress: show a bar.
    """

    dataset: str
    output: str
    interactions: tuple[str, ...]
    user: str
    item: str
    time: str
    rating: str | None = None
    items: str | None = None
    item_id: str = ""
    item_fields: tuple[str, ...] = ()
    separator: str | None = None
    show_progress: bool = True


@dataclass(frozen=True)
class Conversion:
    """What was written.

    Attributes:
        users: number of different users.
        items: number of different items in the interactions.
        interactions: number of rows.
        items_without_text: items that the item file does not name, which got empty texts; None without such a file.
        files: the files.
    """

    users: int
    items: int
    interactions: int
    items_without_text: int | None
    files: tuple[Path, ...]


def convert_options(given: Mapping[str, Any], dataset: str | None, output: str) -> ConvertOptions:
    """Check what the command line gave, and add what ``source`` stands for.

    Raises:
        InputError: for an unknown option or source, or if the files, the dataset or a column is not named.
    """
    known = [option.name for option in fields(ConvertOptions) if option.name not in ("dataset", "output")]
    for key in given:
        if key not in (*known, "source"):
            raise InputError(f"convert has no option --{key}{nearest(key, known)}; it takes --{', --'.join(known)}.")
    source = given.get("source")
    if source is not None and source not in SOURCES:
        raise InputError(f"Unknown source '{source}'{nearest(str(source), SOURCES)}; known: {', '.join(SOURCES)}.")
    settings = {**SOURCES.get(str(source), {}), **{key: given[key] for key in given if key != "source"}}
    for key in ("interactions", "user", "item", "time"):
        if not settings.get(key):
            raise InputError(f"convert needs --{key}, or --source={'/'.join(SOURCES)} for the columns (see --help).")
    if not dataset:
        raise InputError("convert needs --dataset=NAME, the name of the dataset to write.")
    check_dataset_name(dataset)
    show = settings.pop("show_progress", True)
    files = [file for name in _names(settings.pop("interactions")) for file in _files(name, source)]
    item_fields = _names(settings.pop("item_fields", ()))
    texts = {key: str(value) for key, value in settings.items() if value is not None}
    options = ConvertOptions(dataset, output, tuple(files), item_fields=item_fields, show_progress=bool(show), **texts)
    if options.items and not options.item_fields:
        raise InputError("--items needs --item_fields, the columns to write, for example --item_fields=[title].")
    for name in options.item_fields:
        if ":" in name or "\t" in name:
            raise InputError(
                f"The column '{name}' cannot be a field of an atomic file: rename it, without ':' and tab."
            )
    return replace(options, item_id=options.item_id or options.item)


def convert_dataset(options: ConvertOptions) -> Conversion:
    """Write the atomic files of a dataset; files that exist are replaced once all is written, not before.

    Raises:
        InputError: if a file or column is missing, or a row cannot be used (names file and line).
    """
    check_dataset_name(options.dataset)
    target = Path(options.output) / options.dataset / options.dataset
    inter_path, item_path = target.with_name(f"{options.dataset}.inter"), target.with_name(f"{options.dataset}.item")
    with replacing(inter_path) as inter_file:
        with inter_file.open("w", encoding="utf-8", newline="") as stream:
            users, items, interactions = _write_interactions(options, stream)
        if options.items is None:
            return Conversion(len(users), len(items), interactions, None, (inter_path,))
        with replacing(item_path) as item_file, item_file.open("w", encoding="utf-8", newline="") as stream:
            without_text = _write_items(options, pd.Index(sorted(items)), stream)
    return Conversion(len(users), len(items), interactions, without_text, (inter_path, item_path))


def summary_rows(options: ConvertOptions, result: Conversion) -> list[dict[str, Any]]:
    """Return the counts as rows of a table, with the published ones of the dataset, where known, below."""
    counts = {"users": result.users, "items": result.items, "interactions": result.interactions}
    rows = [{"counts": "converted", **counts}]
    if options.dataset in PUBLISHED:
        rows.append({"counts": "published (5-core)", **dict(zip(counts, PUBLISHED[options.dataset], strict=True))})
    return rows


def _names(value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value.split() if isinstance(value, str) else map(str, value)))


def _files(name: str, source: str | None) -> list[str]:
    """Return the file `name`; for amazon2023 also those of the three splits whose names begin with `name`."""
    if source != "amazon2023" or Path(name).is_file():
        return [name]
    found = [[f for f in (f"{name}.{split}.csv", f"{name}.{split}.csv.gz") if Path(f).is_file()] for split in _SPLITS]
    if not all(found):
        raise InputError(f"There is neither a file '{name}' nor '{name}.train.csv', '.valid.csv' and '.test.csv'.")
    return [files[0] for files in found]


def _write_interactions(options: ConvertOptions, stream: TextIO) -> tuple[set[str], set[str], int]:
    """Write the ``.inter`` file; return its users, items and number of rows."""
    columns = [options.user, options.item, options.time, *([options.rating] if options.rating else [])]
    users: set[str] = set()
    items: set[str] = set()
    count = 0
    rating_header = "\trating:float" if options.rating else ""
    stream.write(f"user_id:token\titem_id:token\ttimestamp:float{rating_header}\n")
    for path in options.interactions:
        chunks = read_chunks(path, columns, options.separator)
        for chunk in progress(chunks, Path(path).name, options.show_progress, unit="chunk"):
            user, item = _ids(path, chunk[options.user]), _ids(path, chunk[options.item])
            rating = [_numbers(path, chunk[options.rating], ", or leave out --rating")] if options.rating else []
            _write_rows([user, item, _times(path, chunk[options.time]), *rating], stream)
            users.update(user.unique())
            items.update(item.unique())
            count += len(chunk)
    if not count:
        raise InputError(f"There is no interaction in {', '.join(options.interactions)}.")
    _check_words(users, options.user)
    _check_words(items, options.item)
    return users, items, count


def _write_items(options: ConvertOptions, items: pd.Index, stream: TextIO) -> int:
    """Write the ``.item`` file: a row for each of `items`, the first that the file has; return how many it has not."""
    path = str(options.items)
    header = [f"{name}:token_seq" for name in options.item_fields]
    stream.write("\t".join(["item_id:token", *header]) + "\n")
    written = np.zeros(len(items), dtype=bool)
    chunks = read_chunks(path, [options.item_id, *options.item_fields], options.separator)
    for chunk in progress(chunks, Path(path).name, options.show_progress, unit="chunk"):
        row = pd.Series(items.get_indexer(_ids(path, chunk[options.item_id])), index=chunk.index)
        new = (row >= 0) & ~row.duplicated() & ~written[row]
        texts = [chunk.loc[new, name].map(clean_text).array for name in options.item_fields]
        _write_rows([items[row[new]], *texts], stream)
        written[row[new]] = True
    without_text = items[~written]
    _write_rows([without_text, *[[""] * len(without_text)] * len(options.item_fields)], stream)
    return len(without_text)


def _write_rows(columns: Sequence[Any], stream: TextIO) -> None:
    pd.DataFrame(dict(enumerate(columns))).to_csv(
        stream, sep="\t", header=False, index=False, quoting=csv.QUOTE_NONE, lineterminator="\n"
    )


def clean_text(value: Any) -> str:
    """Return a value of a metadata field as one line: lists and dictionaries joined, any white space one space.

    A double quote in front becomes a single one, because RecBole's reader would take it for the start of a quotation.
    """
    text = " ".join(_words(value)).encode(errors="replace").decode()  # half characters of JSON become "?"
    return "'" + text[1:] if text.startswith('"') else text


def _words(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return value.split()
    if isinstance(value, Mapping):
        return [word for pair in value.items() for part in pair for word in _words(part)]
    if isinstance(value, (Sequence, np.ndarray)):
        return [word for part in value for word in _words(part)]
    return [] if pd.isna(value) else str(value).split()


def _ids(path: str, values: pd.Series) -> pd.Series:
    """Return `values` as text; refuse missing ones and those that an atomic file cannot hold."""
    missing = values.isna()
    texts = (values.convert_dtypes() if pd.api.types.is_float_dtype(values) else values).astype(str)
    _refuse(path, values, missing | (texts == ""), f"has no {values.name}: remove it")
    long = texts.str.len() > LONGEST_TOKEN
    if long.any():
        row = int(long.idxmax())
        raise InputError(f"{place(path, row)} has a {values.name} of over {LONGEST_TOKEN:,} characters: shorten it.")
    halves = texts.str.contains("[\ud800-\udfff]")
    _refuse(path, values, halves, f"has half a character (a lone surrogate) in {values.name}: mend it")
    _refuse(path, values, texts.str.contains('[\t\r\n"]'), f"has a tab, line break or quote in {values.name}: clean it")
    return texts


def _numbers(path: str, values: pd.Series, otherwise: str = "") -> pd.Series:
    """Return `values` as they are if they are numbers; `otherwise` ends what the message advises."""
    finite = np.isfinite(pd.to_numeric(values, errors="coerce"))
    _refuse(path, values, ~finite, f"has a {values.name} that is no number: mend or remove it{otherwise}")
    return values


def _times(path: str, values: pd.Series) -> pd.Series:
    """Return `values` as they are if one of them is a number, else, as dates, in seconds since 1970."""
    is_date = pd.api.types.is_datetime64_any_dtype(values)
    if not is_date and pd.to_numeric(values, errors="coerce").notna().any():
        return _numbers(path, values)
    dates = pd.to_datetime(values, errors="coerce", utc=True, **({} if is_date else {"format": "ISO8601"}))
    wrong = f"has a {values.name} that is neither a number nor a date such as 2014-07-23T12:00: mend or remove it"
    _refuse(path, values, dates.isna(), wrong)
    return (dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)


def _refuse(path: str, values: pd.Series, bad: pd.Series, problem: str) -> None:
    if bad.any():
        row = bad.idxmax()
        raise InputError(f"{place(path, int(row))} ({values[row]!r}) {problem}.")


def _check_words(ids: set[str], column: str) -> None:
    for word in sorted(ids & _MISSING_WORDS):
        raise InputError(f"An id in column '{column}' is '{word}', which RecBole reads as a missing value: rename it.")
