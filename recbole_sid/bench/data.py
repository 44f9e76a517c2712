"""What is measured: models of the paper's sizes over a synthetic catalogue, or a checkpoint; batches of histories."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from recbole.utils import init_seed

from recbole_sid.bench.synthetic_catalogue import synthetic_semantic_ids, synthetic_sequences
from recbole_sid.config import Config
from recbole_sid.errors import InputError
from recbole_sid.memory import Memory, Numbers
from recbole_sid.memory.numbers import ROW_LIMIT
from recbole_sid.model.base import SIDRecommender
from recbole_sid.registry import get_model
from recbole_sid.semantic_ids.artefact import SemanticIDs

# Kind of model -> class and settings over those of its property file, which are the papers' sizes.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "TIGER": ("TIGER", {}),
    "SIDMLP": ("SIDMLP", {}),
    "SIDMLPPlusPlus": ("SIDMLPPlusPlus", {"encoder": "token"}),
    "SIDMLPPlusPlus-item": ("SIDMLPPlusPlus", {"encoder": "item"}),
    "SIDMLPHybrid": ("SIDMLPHybrid", {}),
    "TransitionMemory": ("TransitionMemory", {}),
    "SASRec": ("SASRec", {"MAX_ITEM_LIST_LENGTH": 50}),
}
HISTORIES = ("natural", "full")
# Items a history, of the papers' data sets: at most 20, and on average about 8.
_LONGEST = 20
_LENGTH_LAW = (2, 0.22)  # negative binomial, plus one
_SASREC_LENGTH = 50
# Interactions of an item in the synthetic training part, and numbers of its memory: what validation chose most often
# for models with a memory on scientific and beauty.
_INTERACTIONS = 10
_NUMBERS, _SHARPNESS = Numbers(hops=5, hop_decay=0.8, window=5, window_decay=0.5, pseudo_counts=10.0), 0.25


class SyntheticDataset:
    """What a model's constructor asks of a dataset.

    Attributes:
        semantic_ids: of all items, in order; internal item id = row + 1.
    """

    def __init__(self, semantic_ids: SemanticIDs, seed: int = 0) -> None:
        self.semantic_ids, self._seed = semantic_ids, seed

    def num(self, field: str) -> int:
        """Return the number of items with the padding item."""
        return len(self.semantic_ids.codes) + 1

    def item_tokens(self) -> np.ndarray:
        """Return the item tokens by internal id, without padding."""
        return self.semantic_ids.item_tokens

    def training_sequences(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the items of all sequences, and where each starts."""
        return self._sequences

    @cached_property
    def _sequences(self) -> tuple[np.ndarray, np.ndarray]:
        n_items = len(self.semantic_ids.codes)
        return synthetic_sequences(_INTERACTIONS * n_items, n_items, self._seed)


class Workload:
    """Models by kind, built when first asked for, and histories to rank for.

    Attributes:
        semantic_ids: of the catalogue; None for a checkpoint of a model without any.
        n_items: in the catalogue.
        kinds: the kinds of model there are.
        device: where models and batches are.
    """

    def __init__(
        self,
        build: Mapping[str, Callable[[], Any]],
        histories: Callable[[str, int, int], Interaction],
        semantic_ids: SemanticIDs | None,
        n_items: int,
        device: torch.device,
        memory: Callable[[], tuple[Memory, float]] | None = None,
    ) -> None:
        self.semantic_ids = semantic_ids
        self.n_items = n_items
        self.device = device
        self.kinds = tuple(build)
        self._build, self._memory = build, memory
        self._histories = histories
        self._models: dict[str, Any] = {}

    @classmethod
    def synthetic(cls, n_items: int, beam_size: int, device: torch.device, seed: int) -> Workload:
        """Return random models over a synthetic catalogue."""
        semantic_ids = synthetic_semantic_ids(n_items, seed)
        dataset = SyntheticDataset(semantic_ids, seed)
        common = {"beam_size": beam_size, "use_gpu": device.type == "cuda", "topk": [1], "valid_metric": "NDCG@1"}

        def build(kind: str) -> Callable[[], Any]:
            return lambda: _random_model(kind, common, dataset, device, seed)

        def histories(law: str, n: int, number: int) -> Interaction:
            rng = np.random.default_rng([seed, n, number])
            names = ("user_id", "item_id_list", "item_length")
            stream = dataset.training_sequences()[0]
            place = rng.integers(0, len(stream), (n, 1)) + np.arange(_SASREC_LENGTH)
            items = stream[place % len(stream)].astype(np.int64)
            return _histories(law, items, _LONGEST, names, rng)

        def memory() -> tuple[Memory, float]:
            learnt = Memory(n_items + 1, row_limit=ROW_LIMIT)
            learnt.learn(*dataset.training_sequences(), _NUMBERS)
            return learnt, _SHARPNESS

        kinds = {kind: build(kind) for kind in KINDS}
        return cls(kinds, histories, semantic_ids, n_items, device, memory)

    @classmethod
    def of_checkpoint(cls, path: str | os.PathLike[str], beam_size: int, device: torch.device, seed: int) -> Workload:
        """Return a checkpoint's model with the histories of its test split, or else of training; ``full`` ones
        hold random items.

        Raises:
            InputError: as `recbole_sid.quick_start.load_data_and_model`, and for a model that no row measures.
        """
        from recbole_sid.quick_start import load_data_and_model

        config, model, _, train_data, _, test_data = load_data_and_model(path)
        kind = kind_of(config["model"], config["encoder"])
        model.beam_size = beam_size
        model = model.to(device).eval()
        dataset = (test_data or train_data)._dataset
        longest = config["MAX_ITEM_LIST_LENGTH"]
        names = (model.USER_ID, model.ITEM_SEQ, model.ITEM_SEQ_LEN)

        def histories(law: str, n: int, number: int) -> Interaction:
            rng = np.random.default_rng([seed, n, number])
            if law == "natural":
                return dataset[torch.from_numpy(rng.choice(len(dataset), n, replace=n > len(dataset)))]
            return _histories(law, rng.integers(1, model.n_items, (n, longest)), longest, names, rng)

        def memory() -> tuple[Memory, float]:
            if getattr(model, "remembers", False):
                return model.memory, float(model.sharpness)
            learnt = Memory(model.n_items, row_limit=ROW_LIMIT)
            items, offsets = train_data._dataset.training_sequences()
            learnt.learn(items, offsets, _NUMBERS)
            return learnt, _SHARPNESS

        semantic_ids = model.semantic_ids if isinstance(model, SIDRecommender) else None
        return cls({kind: lambda: model}, histories, semantic_ids, model.n_items - 1, device, memory)

    @cached_property
    def memory(self) -> tuple[Memory, float]:
        """What the training part holds, and how sharp the mixture with it is: built when first asked for."""
        if self._memory is None:
            raise AttributeError("this workload has no memory")
        return self._memory()

    def model(self, kind: str, **attributes: Any) -> Any:
        """Return a copy of the model of `kind` in eval mode with `attributes` set; trie and tables are shared.

        A copy for each row, so that what one prepares for inference does not push out what another did.
        """
        if kind not in self._models:
            self._models[kind] = self._build[kind]()
        model = self._models[kind]
        of_codes = [model.trie, model.semantic_ids] if isinstance(model, SIDRecommender) else []
        shared = [*model.buffers(), *of_codes, *filter(None, [getattr(model, "memory", None)])]
        own = copy.deepcopy(model, {id(value): value for value in shared})
        for name, value in attributes.items():
            if not hasattr(own, name):
                raise AttributeError(f"{type(own).__name__} has no attribute '{name}'")
            setattr(own, name, value)
        return own

    def batches(self, law: str, size: int, count: int) -> list[Interaction]:
        """Return `count` batches of `size` histories, ``natural`` or ``full``; the same ones every time."""
        return [self._histories(law, size, number).to(self.device) for number in range(count)]


def kind_of(model: str, encoder: str | None) -> str:
    """Return the kind of a model class with its setting `encoder`.

    Raises:
        InputError: if no row measures it.
    """
    for kind, (name, settings) in KINDS.items():
        if name == model and settings.get("encoder") in (None, encoder or "token"):
            return kind
    known = sorted({name for name, _ in KINDS.values()})
    raise InputError(f"bench measures checkpoints of {', '.join(known)}; this one is of {model}.")


def _random_model(
    kind: str, common: Mapping[str, Any], dataset: SyntheticDataset, device: torch.device, seed: int
) -> Any:
    name, settings = KINDS[kind]
    init_seed(seed, reproducibility=False)
    config = Config(name, "synthetic", config_dict={**common, **settings})
    return get_model(name)(config, dataset).to(device).eval()


def _histories(
    law: str, items: np.ndarray, full: int, names: tuple[str, str, str], rng: np.random.Generator
) -> Interaction:
    """Return histories of the first of items int64 [n, width]: full ones, or of the lengths of the papers' data sets.

    Args:
        full: items of a full history.
        names: of the fields user, items, length.
    """
    n, width = items.shape
    lengths = np.full(n, full)
    if law == "natural":
        lengths = np.clip(rng.negative_binomial(*_LENGTH_LAW, n) + 1, 1, full)
    columns = (np.arange(n), items * (np.arange(width) < lengths[:, None]), lengths)
    return Interaction(dict(zip(names, (torch.from_numpy(column) for column in columns), strict=True)))
