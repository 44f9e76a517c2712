"""What is learnt from training items and kept as arrays, and what every source of item features offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np

T = TypeVar("T", bound="Learnt")


class Learnt:
    """Something that learns the attributes `LEARNT`, arrays or numbers, and can be saved as them."""

    LEARNT: ClassVar[tuple[str, ...]] = ()

    def state(self) -> dict[str, np.ndarray]:
        """Return what was learnt, as arrays that need no pickle."""
        return {name: np.asarray(getattr(self, name)) for name in self.LEARNT}

    def load_state(self: T, state: Mapping[str, np.ndarray]) -> T:
        """Become what `state` was called on.

        Raises:
            KeyError: if an array is missing.
        """
        for name in self.LEARNT:
            setattr(self, name, state[name])
        return self


class FeatureSource(Learnt, ABC):
    """One source of item features: fitted once, it encodes items that come later as those it was fitted with.

    Every class says itself, inherited or not, which files it reads, since what they hold is part of the semantic IDs'
    lineage: with a file that changed unseen, old semantic IDs would be reused.

    Args:
        config: the source's own configuration keys, and where its files lie.

    Attributes:
        files: the configuration keys that name files or folders it reads; ``()`` for none.
        growing: those of `files` that later get rows for new items.
        models: those of `files` that name a model to load, which the settings in somebody's file alone never make one
            do: its code would run, or it would be downloaded.
    """

    files: ClassVar[tuple[str, ...]]
    growing: ClassVar[tuple[str, ...]] = ()
    models: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        files = cls.__dict__.get("files")
        if not isinstance(files, tuple) or not all(isinstance(key, str) for key in files):
            raise TypeError(
                f"The feature {cls.__name__} must set `files` to a tuple of the configuration keys that name files it "
                "reads, `files = ()` if it reads none."
            )

    @classmethod
    def source_files(cls, config: Any) -> dict[str, str | None]:
        """Return the file or folder behind each of `files`, and behind names for others that it reads; None for none.

        Override it where a file does not stand in its key.
        """
        return {key: config[key] for key in cls.files}

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def fit_encode(self, dataset: Any) -> np.ndarray:
        """Learn from the items that occur in training and return the features of all.

        Args:
            dataset: the training split, a `HistoryDataset`.

        Returns:
            float32 [n_items, d], rows in the order of ``dataset.item_tokens()``.

        Raises:
            InputError: if a file is missing or does not fit.
        """

    @abstractmethod
    def read(self, item_tokens: np.ndarray) -> Any:
        """Return the raw input of items, known or new, from the files of the configuration.

        Raises:
            InputError: if an item has none.
        """

    @abstractmethod
    def encode(self, raw: Any) -> np.ndarray:
        """Return the features of raw input, as `read` gives it: float32 [n, d].

        Raises:
            InputError: if `raw` is of another kind.
        """
