"""What is learnt from training items and kept as arrays, and what every source of item features offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np

from recbole_sid.settings.declared import Settings

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

    Every class declares its keys itself, inherited or not, and of each that holds text whether it names a file: what
    files hold is part of the semantic IDs' lineage, and with a file that changed unseen, old ones would be reused.

    Args:
        config: the source's own configuration keys, and where its files lie.

    Attributes:
        settings: declares its configuration keys; a class without keys says ``settings = Settings``.
    """

    settings: ClassVar[type[Settings]]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        declared = cls.__dict__.get("settings")
        if declared is None:
            raise TypeError(
                f"The feature {cls.__name__} must declare its keys: set `settings` to a dataclass made from "
                "recbole_sid.settings.Settings, or to Settings itself if it has none."
            )
        for name in declared.undecided():
            raise TypeError(
                f"{declared.__name__}.{name} holds text: say in its declaration whether it names a file that "
                f"{cls.__name__} reads (file=True or file=False)."
            )

    @classmethod
    def source_files(cls, config: Any) -> dict[str, str | None]:
        """Return the file or folder, or None, behind each key that names one, and behind names for others it reads.

        Override it where a file does not stand in its key.
        """
        return {key: config[key] for key in cls.settings.flagged("file")}

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
