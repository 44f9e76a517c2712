"""Splits a dataset into loaders, with training batches of similar history length and semantic IDs attached."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from recbole.data import data_preparation as recbole_data_preparation
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.data.interaction import Interaction
from recbole.data.utils import get_dataloader
from recbole.utils import ModelType
from torch.utils.data import Sampler

from recbole_sid.capabilities import capabilities_of
from recbole_sid.data.eval_users import on_sampled_users
from recbole_sid.data.histories import CutBatches
from recbole_sid.data.instance_loader import InstanceLoader
from recbole_sid.data.shares import SharedBatches
from recbole_sid.data.windows import WINDOW_FIELD, Windows
from recbole_sid.distributed.group import current_group
from recbole_sid.errors import InputError, first_line
from recbole_sid.registry import is_ours
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.semantic_ids.build import semantic_ids_for
from recbole_sid.settings.time_split import moments_of
from recbole_sid.util import hardware

# Batches that are sorted together: enough to make lengths in a batch alike, few enough to keep batches random.
_BATCHES_PER_BUCKET = 50
# Row numbers that are Python's at the same time, of which each takes 36 bytes.
_NUMBERS_AT_ONCE = 1 << 16
# Widths of histories that training batches come in where each shape is captured.
_WIDTHS = 4


class LengthBucketSampler(Sampler[int]):
    """Yields a fresh permutation in which every run of `batch_size` rows has similar lengths.

    Rows are shuffled, cut into buckets of 50 batches, sorted by length within a bucket, and the batches shuffled
    again. Every row comes once an epoch; the one short batch comes last, and its rows are drawn from all alike.

    Args:
        lengths: [n_rows].
        batch_size: rows a batch.
        generator: decides the order, as in torch's RandomSampler.
        rows: int64 [n_rows], what is yielded for each; None: their numbers from 0.
    """

    def __init__(
        self, lengths: torch.Tensor, batch_size: int, generator: torch.Generator, rows: torch.Tensor | None = None
    ) -> None:
        self.lengths = lengths
        self.rows = torch.arange(len(lengths)) if rows is None else rows
        self.batch_size = batch_size
        self.generator = generator

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        n = len(self.lengths)
        full = n // self.batch_size
        order, short = torch.randperm(n, generator=self.generator).split([full * self.batch_size, n % self.batch_size])
        bucket = torch.arange(len(order)) // (self.batch_size * _BATCHES_PER_BUCKET)
        longest = int(self.lengths.max()) + 1 if n else 1
        order = order[torch.argsort(bucket * longest + self.lengths[order], stable=True)]
        batches = order.reshape(full, self.batch_size)
        batches = batches[torch.randperm(full, generator=self.generator)]
        for part in (*batches.flatten().split(_NUMBERS_AT_ONCE), short):
            yield from self.rows[part].tolist()


def data_preparation(
    config: Any, dataset: Any, find_semantic_ids: Callable[[Any, Any], SemanticIDs] = semantic_ids_for
) -> tuple[Any, Any, Any]:
    """Split `dataset` and return the (train, valid, test) loaders, as RecBole's `data_preparation`.

    General models are evaluated target by target if the split is by time. For our models, training batches are bucketed
    by history length, and for those that need them the semantic IDs, loaded or built from the training part, are
    attached to the training dataset.

    Args:
        config: of the run.
        dataset: of `create_dataset`.
        find_semantic_ids: returns the semantic IDs of a configuration and a training part.

    Raises:
        InputError: if a split is empty or ready-made, or the semantic IDs do not fit the dataset.
    """
    if max(config["topk"]) >= dataset.item_num:
        raise InputError(
            f"topk={config['topk']} asks for more than the {dataset.item_num - 1} items of '{config['dataset']}'."
        )
    try:
        loaders = recbole_data_preparation(config, dataset)
    except InputError:
        raise
    except (ValueError, NotImplementedError) as error:  # for example an order or split that RecBole does not do
        raise InputError(f"RecBole cannot prepare '{config['dataset']}' so ({first_line(error)}).") from error
    sampled = (
        on_sampled_users(loader, config, phase) for loader, phase in zip(loaders[1:], ("valid", "test"), strict=True)
    )
    loaders = (loaders[0], *sampled)
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        if moments_of(config["eval_args"]["split"]) is not None:
            loaders = (loaders[0], *(InstanceLoader(config, loader._dataset) for loader in loaders[1:]))
        for loader in loaders[1:]:
            if isinstance(loader, FullSortEvalDataLoader):
                # RecBole counts user x item pairs here and so ranks one user at a time; for us it is users for all.
                loader.batch_sampler.batch_size = config["eval_batch_size"]
    if is_ours(config.model_class):
        train = loaders[0]
        capabilities = capabilities_of(config.model_class)
        if capabilities.uses_semantic_ids:
            deciding = capabilities.semantic_id_config(config)
            with current_group().main_first():
                train._dataset.semantic_ids = find_semantic_ids(deciding, train._dataset)
        arrange(train, config)
        for loader in loaders[1:]:
            cut_batches(loader)
    return loaders


def training_loader(config: Any, train_dataset: Any) -> Any:
    """Return a loader over `train_dataset` with the batch size and seed of `config`, arranged as its model trains."""
    return arrange(get_dataloader(config, "train")(config, train_dataset, None, shuffle=config["shuffle"]), config)


def arrange(loader: Any, config: Any) -> Any:
    """Make `loader`, a RecBole TrainDataLoader, yield what the configured model trains on; return it.

    Batches are of similar history length if it shuffles, and cut to their longest history. Models
    that train windows get the rows of `Windows` only, which say in WINDOW_FIELD how many targets they are for. In a
    group of processes each gets its share of every batch.
    """
    dataset = loader._dataset
    n_items, rows = dataset.inter_feat[dataset.item_list_length_field], None
    lengths = n_items
    if capabilities_of(config.model_class).trains_windows_with(config):
        rows, n_targets = Windows.of(dataset, config["window_stride"])
        targets = torch.ones_like(lengths).index_copy_(0, rows, n_targets.to(lengths.dtype))
        dataset.inter_feat.update(Interaction({WINDOW_FIELD: targets}))
        lengths = lengths[rows] * (1 + int(targets.max())) + n_targets  # of one length, as many targets
    # torch forbids replacing a loader's sampler, RecBole's constructor offers no place for one.
    if loader.shuffle:
        loader.batch_sampler.sampler = LengthBucketSampler(lengths, loader.step, loader.generator, rows)
    elif rows is not None:
        loader.batch_sampler.sampler = rows.tolist()
    few_shapes = config["capture_training"] and hardware.has_graphs(config["device"])
    cut_batches(loader, -(-config["MAX_ITEM_LIST_LENGTH"] // _WIDTHS) if few_shapes else 1)
    group = current_group()
    if group.size > 1:
        loader.collate_fn = SharedBatches(loader.collate_fn, n_items, group)
    return loader


def cut_batches(loader: Any, step: int = 1) -> Any:
    """Make `loader` cut the histories of each batch to its longest, or to a multiple of `step`, before they go to any
    device; return it.

    For our models only: those of RecBole may rely on histories of MAX_ITEM_LIST_LENGTH places.
    """
    dataset = loader._dataset
    histories = getattr(dataset, f"{dataset.iid_field}_list_field")
    loader.collate_fn = CutBatches(loader.collate_fn, histories, dataset.item_list_length_field, step)
    return loader
