"""Datasets: RecBole's, with histories gathered when a batch asks for them instead of stored per prefix.

RecBole 1.2.1 stores every prefix of every sequence as a padded row (memory: rows x length) and orders
by a float32 timestamp. `HistoryDataset` keeps each sequence once and orders by the float64 timestamp of the file.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from logging import getLogger
from typing import Any

import numpy as np
import torch
from pandas.api.types import is_numeric_dtype
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction

from recbole_sid.config import Config
from recbole_sid.data.atomic_dataset import AtomicDataset, read_by_arrow
from recbole_sid.data.headers import check_headers
from recbole_sid.data.splitting import split_rows
from recbole_sid.data.time_split import TimeSplit
from recbole_sid.errors import InputError, first_line
from recbole_sid.settings.time_split import moments_of
from recbole_sid.settings.whole_data import trains_on_all
from recbole_sid.util.atomic_files import atomic_path

# Number of the prefix in the whole dataset; tells a batch's rows apart (distillation cache).
ROW_FIELD = "row_index"
_SPLITS = ("training", "validation", "test")
_WHY_EMPTY = {
    "LS": "leave-last-out needs users with at least 4 interactions",
    "RS": "by shares (RS) users have too few interactions for it",
    "TS": "by times (TS, rounded to float32 as RecBole keeps them) no interaction falls into it",
}


class TimeOrderedDataset(AtomicDataset):
    """RecBole's Dataset, ordered by user and float64 time, ties in file order, before RecBole rounds time to float32.

    General and sequential models so get the same order and the same split.

    Attributes:
        times: float64 [n], of all interactions by user and time, as in the file: RecBole scales its own to 0..1.
        time_split: of the whole dataset, if it is split by time.
        recbole_orders_otherwise: whether plain RecBole, which orders by the times in float32, has another order.
    """

    times: np.ndarray
    recbole_orders_otherwise = False
    time_split: TimeSplit | None = None

    def _data_filtering(self) -> None:
        if self.config["eval_args"]["order"] == "TO" and self.time_field in self.inter_feat:
            self._check_times()
        super()._data_filtering()
        if self.time_field in self.inter_feat:
            self.times = self.inter_feat[self.time_field].to_numpy(np.float64, copy=True)  # in the file's order so far

    def _check_times(self) -> None:
        """Refuse times that cannot be ordered: RecBole numbers tokens as they appear and fills gaps with the mean."""
        file, field = f"{self.dataset_name}.inter", self.time_field
        times = self.inter_feat[field]
        if not is_numeric_dtype(times.dtype):
            raise InputError(
                f"The time field '{field}' of '{file}' is of type {self.field2type[field].value}, which has no order "
                f"in time: write it as numbers under '{field}:float' (`recbole-sid convert` does)."
            )
        wrong = np.flatnonzero(~np.isfinite(times.to_numpy()))
        if len(wrong):
            raise InputError(
                f"The time field '{field}' of '{file}' is empty, NaN or infinite in {len(wrong):,} rows, first in line "
                f"{wrong[0] + 2}: mend or drop these rows (`recbole-sid convert` makes the file from raw data)."
            )

    def _reset_index(self) -> None:
        if self.inter_feat.empty:
            raise InputError(
                f"Dataset '{self.dataset_name}' has no interaction left after filtering: loosen the filters."
            )
        super()._reset_index()

    def _change_feat_format(self) -> None:
        if self.config["eval_args"]["order"] == "TO":
            if self.time_field not in self.inter_feat:
                raise InputError(
                    f"'{self.dataset_name}.inter' has no loaded field '{self.time_field}': name it in load_col, or "
                    "name the field that holds the time in TIME_FIELD."
                )
            order = np.lexsort([self.times, self.inter_feat[self.uid_field]])
            self.inter_feat, self.times = self.inter_feat.iloc[order], self.times[order]
            self.recbole_orders_otherwise = self._recbole_orders_otherwise()
            self.time_split = self._split_by_time()
            self.inter_feat = self.inter_feat.reset_index(drop=True)
        super()._change_feat_format()

    def _split_by_time(self) -> TimeSplit | None:
        """Divide the ordered interactions at the moments that the evaluation setting names, if it does."""
        moments = moments_of(self.config["eval_args"]["split"])
        if moments is None:
            return None
        users, items = (self.inter_feat[field].to_numpy() for field in (self.uid_field, self.iid_field))
        return TimeSplit.of(users, items, self.times, moments, self.dataset_name)

    def _recbole_orders_otherwise(self) -> bool:
        """Say whether two interactions (of a user, if users are split one by one) at times that are equal in float32
        stand in the file the other way: RecBole sorts stably.
        """
        by_user = self.config["eval_args"]["group_by"] == "user" or issubclass(type(self), SequentialDataset)
        users, times = (self.inter_feat[field].to_numpy() for field in (self.uid_field, self.time_field))
        rounded, in_file = times.astype(np.float32), self.inter_feat.index.to_numpy()
        if not by_user:
            order = np.argsort(rounded, kind="stable")
            users, rounded, in_file = users[order], rounded[order], in_file[order]
        tied = rounded[1:] == rounded[:-1]
        if by_user:
            tied &= users[1:] == users[:-1]
        return bool((tied & (in_file[1:] < in_file[:-1])).any())

    def build(self) -> list[Dataset]:
        """Split as RecBole does, or by time, or not at all.

        Raises:
            InputError: if shares are wrong, or a split that the evaluation setting asks for is empty.
        """
        asked = self.config["eval_args"]["split"]
        if moments_of(asked) is not None:
            return self._parts_by_time()
        if trains_on_all(asked):
            return self._whole_and_two_empty()
        unfilled = left_empty(asked) if isinstance(asked, dict) else ()
        splits = self._parts_as_recbole()
        for name, split in zip(_SPLITS, splits, strict=True):
            if len(split) == 0 and name not in unfilled:
                mode = next(iter(asked))
                raise InputError(
                    f"The {name} split of '{self.dataset_name}' is empty: {_WHY_EMPTY[mode]}; check eval_args "
                    "and the filters."
                )
        return splits

    def _parts_as_recbole(self) -> list[Dataset]:
        """Return RecBole's parts, found for all users at once."""
        evaluation = self.config["eval_args"]
        if evaluation["order"] != "TO" or not isinstance(evaluation["split"], dict):
            return super().build()
        self._change_feat_format()
        users, times = (self.inter_feat[field].numpy() for field in (self.uid_field, self.time_field))
        parts = split_rows(users, times, evaluation["split"], evaluation["group_by"])
        if parts is None:
            raise NotImplementedError(f"eval_args={dict(evaluation)!r} is no split of RecBole's")
        self._drop_unused_col()
        return [self.copy(rows_at(self.inter_feat, part)) for part in parts]

    def _parts_by_time(self) -> list[Dataset]:
        """Return the rows of each part of the split by time, by user and time."""
        self._change_feat_format()
        self._drop_unused_col()
        assert self.time_split is not None
        getLogger().info(self.time_split.description)
        part = self.time_split.part[self.target_positions()]
        return [self.copy(rows_at(self.inter_feat, np.flatnonzero(part == number))) for number in range(len(_SPLITS))]

    def _whole_and_two_empty(self) -> list[Dataset]:
        """Return all rows as the training part, and parts for validation and test that have none."""
        self._change_feat_format()
        self._drop_unused_col()
        getLogger().info(f"Training on all of '{self.dataset_name}': nothing is held out for validation and test.")
        nothing = np.zeros(0, dtype=np.int64)
        parts = [self.inter_feat, self.inter_feat[nothing], self.inter_feat[nothing]]
        return [self.copy(rows) for rows in parts]

    def target_positions(self) -> np.ndarray:
        """Return of each row's target where it is among all interactions by user and time, int64 [n_rows]."""
        if ROW_FIELD not in self.inter_feat:
            self.inter_feat.update(Interaction({ROW_FIELD: torch.arange(len(self.inter_feat))}))
        return self.inter_feat[ROW_FIELD].numpy()


def rows_at(rows: Interaction, index: np.ndarray) -> Interaction:
    """Return `rows` at int64 [m]; an Interaction itself would make a list of the index first."""
    place = torch.from_numpy(np.asarray(index, dtype=np.int64))
    return Interaction({field: values[place] for field, values in rows.interaction.items()})


def left_empty(split: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the parts that ``eval_args.split`` leaves empty on purpose.

    Raises:
        InputError: if shares are not three numbers, as RecBole needs them, with something to train on.
    """
    if moments_of(split) is not None:
        return []
    if trains_on_all(split):
        return ["validation", "test"]
    if "LS" in split:
        return {"valid_only": ["test"], "test_only": ["validation"]}.get(split["LS"], [])
    for mode, shares in split.items():
        numbers = isinstance(shares, list) and all(
            isinstance(share, (int, float)) and not isinstance(share, bool) and 0 <= share < math.inf
            for share in shares
        )
        if not numbers or len(shares) != len(_SPLITS) or not shares[0] or not any(shares[1:]):
            raise InputError(
                f"eval_args.split={dict(split)!r} is not possible: {mode} takes three shares, of training (above 0), "
                "validation and test; give 0 to one that is left out, as in [0.8, 0.0, 0.2]."
            )
        return [name for name, share in zip(_SPLITS, shares, strict=True) if share == 0]
    return []


class HistoryDataset(TimeOrderedDataset, SequentialDataset):
    """RecBole's SequentialDataset with the same fields, built without a loop and linear in the interactions.

    Attributes:
        sequences: field -> tensor [n_interactions], ordered by user and time, whole numbers of 32 bits; shared by all
            splits. So are whole numbers of ``inter_feat``; batches have them in 64.
        history_start: int32 tensor [n_rows], where each row's history starts in `sequences` (int64 beyond 2^31).
        opens_sequence: bool tensor [n_rows], whether the row's history is the first item of its sequence.
        lone: int64 tensor [m], where in `sequences` a training part by time, or of everything, has its users' only
            interactions, which are in no row.
        semantic_ids: set by `data_preparation` for models that need it.
    """

    row_numbers = np.int32
    semantic_ids: Any = None
    lone: torch.Tensor = torch.zeros(0, dtype=torch.int64)

    def data_augmentation(self) -> None:
        """Make one row per prefix: ``u, [i1 .. i_{t-1}] -> i_t`` with at most MAX_ITEM_LIST_LENGTH items of history."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        users = self.inter_feat[self.uid_field].numpy()
        n = len(users)
        position = np.arange(n, dtype=np.int32 if n <= np.iinfo(np.int32).max else np.int64)
        first = np.concatenate([[True], users[1:] != users[:-1]]) if n else np.zeros(0, dtype=bool)
        sequence_start = np.maximum.accumulate(np.where(first, position, 0)) if n else position
        targets = position[~first]
        starts = np.maximum(sequence_start[targets], targets - self.max_item_list_len)

        self.sequences = dict(self.inter_feat.interaction)
        self.history_start = torch.from_numpy(starts)
        self.opens_sequence = torch.from_numpy(targets - sequence_start[targets] == 1)
        rows = rows_at(self.inter_feat, targets)
        rows.update(
            Interaction(
                {
                    self.item_list_length_field: torch.from_numpy(targets - starts),
                    ROW_FIELD: torch.from_numpy(position[: len(targets)].copy()),
                }
            )
        )
        self.inter_feat = rows

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        rows = Interaction({field: _widened(values) for field, values in self.inter_feat[index].interaction.items()})
        if ROW_FIELD in rows:
            rows.update(self._histories(rows))
        return self.join(rows) if join else rows

    def _histories(self, rows: Interaction) -> Interaction:
        """Return the list fields of `rows`, each [n_rows, MAX_ITEM_LIST_LENGTH, ...], zero where padded."""
        start = self.history_start[rows[ROW_FIELD]].reshape(-1, 1)
        length = rows[self.item_list_length_field].reshape(-1, 1)
        step = torch.arange(self.max_item_list_len)
        valid = step < length
        index = torch.where(valid, start + step, 0)
        lists = {}
        for field, values in self.sequences.items():
            if field != self.uid_field:
                mask = valid.reshape(valid.shape + (1,) * (values.dim() - 1))
                lists[getattr(self, f"{field}_list_field")] = _widened(values[index]) * mask
        return Interaction(lists)

    def full_history_lengths(self) -> np.ndarray:
        """Return how many interactions precede each row's target, int64 [n_rows], not cut to MAX_ITEM_LIST_LENGTH."""
        opens = self.opens_sequence.numpy()
        opening_row = np.maximum.accumulate(np.where(opens, np.arange(len(opens)), 0))
        rows = self.inter_feat[ROW_FIELD].numpy()
        return rows - opening_row[rows] + 1

    def _parts_by_time(self) -> list[Dataset]:
        parts = super()._parts_by_time()
        assert self.time_split is not None
        parts[0].lone = torch.from_numpy(self.time_split.lone)
        return parts

    def _whole_and_two_empty(self) -> list[Dataset]:
        parts = super()._whole_and_two_empty()
        users = self.sequences[self.uid_field]
        differs = users[1:] != users[:-1]
        edge = torch.ones(1, dtype=torch.bool)
        parts[0].lone = (torch.cat([edge, differs]) & torch.cat([differs, edge])).nonzero().squeeze(1)
        return parts

    def target_positions(self) -> np.ndarray:
        """Return where in `sequences` each row's target is, int64 [n_rows]."""
        rows = self.inter_feat
        return (self.history_start[rows[ROW_FIELD]] + rows[self.item_list_length_field]).numpy()

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Return the sparse user x item matrix of this split's targets and of each first item it starts from."""
        rows = self.inter_feat
        opening = self.opens_sequence[rows[ROW_FIELD]]
        first = torch.cat([self.history_start[rows[ROW_FIELD][opening]], self.lone])
        fields = {
            field: torch.cat([rows[field], values[first]]) for field, values in self.sequences.items() if field in rows
        }
        return self._create_sparse_matrix(Interaction(fields), self.uid_field, self.iid_field, form, value_field)

    def training_sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of this split's sequences: items [n] and offsets [n_sequences + 1].

        For the training split these are exactly the interactions a model may learn from: each row's target, and the
        first item of each sequence (the target of no row). Sequences of a single item are last.
        """
        rows = self.inter_feat
        order = np.argsort(rows[ROW_FIELD].numpy(), kind="stable")
        row, user = rows[ROW_FIELD].numpy()[order], rows[self.uid_field].numpy()[order]
        opens = np.concatenate([[True], user[1:] != user[:-1]]) if len(user) else np.zeros(0, dtype=bool)
        target = rows[self.iid_field].numpy()[order]
        opening_item = self.sequences[self.iid_field].numpy()[self.history_start.numpy()[row[opens]]]
        where = np.flatnonzero(opens)
        alone = self.sequences[self.iid_field].numpy()[self.lone.numpy()]
        items = np.concatenate([np.insert(target, where, opening_item), alone])
        starts = np.concatenate([where + np.arange(len(where)), len(items) - np.arange(len(alone), 0, -1)])
        return items, np.append(starts, len(items))

    def item_tokens(self) -> np.ndarray:
        """Return the item tokens by internal id, without padding: shape [n_items - 1]."""
        return np.asarray(self.field2id_token[self.iid_field][1:], dtype=str)


def _widened(values: torch.Tensor) -> torch.Tensor:
    """Return integers of a batch as torch's and RecBole's modules index by; where they are kept 32 bits do."""
    return values.long() if values.dtype == torch.int32 else values


class StoredHistoryDataset(HistoryDataset):
    """A HistoryDataset that also keeps the padded history of every row in ``inter_feat``, as RecBole's does, for models
    that read whole columns of it (memory: rows x length). Whole numbers there are of 64 bits, as in batches.
    """

    def data_augmentation(self) -> None:
        super().data_augmentation()
        self.inter_feat = Interaction(
            {field: _widened(values) for field, values in self.inter_feat.interaction.items()}
        )
        self.inter_feat.update(self._histories(self.inter_feat))


# They read `dataset.inter_feat[ITEM_SEQ]`.
_READ_STORED_HISTORIES = frozenset({"FEARec"})


def create_dataset(config: Any) -> Dataset:
    """Create the dataset for ``config['model']``: ours for sequential models and general ones ordered by time, else
    RecBole's; always RecBole's for a Config of RecBole's own.

    Raises:
        InputError: if the dataset's file is missing or holds no interaction after filtering.
    """
    from recbole.utils import ModelType

    check_files(config)
    if not config["benchmark_filename"]:
        check_headers(config)
    histories = StoredHistoryDataset if _reads_stored_histories(config) else HistoryDataset
    ours: dict[Any, type[Dataset]] = {ModelType.SEQUENTIAL: histories}
    if config["eval_args"]["order"] == "TO":
        ours |= {ModelType.GENERAL: TimeOrderedDataset, ModelType.TRADITIONAL: TimeOrderedDataset}
    recboles = _recboles_class(config)
    if isinstance(config, Config):
        plain = recboles in _PLAIN_DATASETS
        recboles = read_by_arrow(recboles)
    own = isinstance(config, Config) and plain and not config["benchmark_filename"]
    split = config["eval_args"]["split"]
    if not own and (moments_of(split) is not None or trains_on_all(split)):
        raise InputError(
            f"{config['model']} has a dataset of its own in RecBole, which knows no eval_args.split={dict(split)!r}."
        )
    try:
        return (ours.get(config["MODEL_TYPE"], recboles) if own else recboles)(config)
    except InputError:
        raise
    except ModuleNotFoundError as error:
        raise InputError(f"{config['model']} needs the package {error.name}: pip install {error.name}.") from error
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(
            f"RecBole cannot read dataset '{config['dataset']}' in '{config['data_path']}' ({first_line(error)}): "
            "check the header (name:type) and values of its files, and the field names in the configuration."
        ) from error


# RecBole's datasets that ours can take the place of; others are of single models or kinds.
_PLAIN_DATASETS = (Dataset, SequentialDataset)


def _recboles_class(config: Any) -> type[Dataset]:
    """Return the class that RecBole's `create_dataset` (recbole/data/utils.py) chooses.

    It is not called, because it unpickles, and so runs, what lies at ``dataset_save_path`` or, under a certain name, in
    ``checkpoint_dir``, also where these stand in somebody's checkpoint.
    """
    from recbole.data import dataset as recbole_datasets
    from recbole.utils import ModelType

    kinds = {ModelType.SEQUENTIAL: "SequentialDataset", ModelType.KNOWLEDGE: "KnowledgeBasedDataset"}
    of_kind = kinds.get(config["MODEL_TYPE"], "Dataset")
    return getattr(recbole_datasets, config["model"] + "Dataset", getattr(recbole_datasets, of_kind))


def create_history_dataset(config: Any) -> HistoryDataset:
    """Create the dataset, with whole sequences, that semantic IDs and labels are made from.

    Raises:
        InputError: as `create_dataset`, and if the model or the files have no whole sequences.
    """
    if config["benchmark_filename"]:
        raise InputError("Whole sequences of interactions are needed: leave out benchmark_filename.")
    dataset = create_dataset(config)
    if not isinstance(dataset, HistoryDataset):
        raise InputError(f"{config['model']} does not read sequences of interactions: name a sequential model.")
    return dataset


def _reads_stored_histories(config: Any) -> bool:
    return any(base.__name__ in _READ_STORED_HISTORIES for base in config.model_class.__mro__)


def check_files(config: Any) -> None:
    """Raise InputError if the dataset's files are missing and RecBole could not download them."""
    folder, name = config["data_path"], config["dataset"]
    if config["benchmark_filename"]:
        return
    if os.path.isdir(folder) and not atomic_path(folder, name, "inter").is_file():
        raise InputError(f"'{folder}' has no file '{name}.inter': put the dataset's atomic files there.")
    if not os.path.isdir(folder) and not _recbole_can_download(name):
        raise InputError(
            f"There is no dataset folder '{folder}': pass `--data_path=DIR` where DIR/{name}/{name}.inter lies."
        )


def check_folder(config: Any) -> None:
    """Raise InputError if the dataset's folder, as somebody's file names it, is missing: RecBole would download into it
    for some names.
    """
    folder = config["data_path"]
    if not os.path.isdir(folder):
        raise InputError(f"There is no dataset folder '{folder}': name the data's place in data_path.")


def _recbole_can_download(name: str) -> bool:
    import recbole
    import yaml

    file = os.path.join(os.path.dirname(recbole.__file__), "properties", "dataset", "url.yaml")
    with open(file, encoding="utf-8") as stream:
        return name in yaml.safe_load(stream)
