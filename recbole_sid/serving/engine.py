"""What ranks histories of item numbers: the one interface between a bundle's models and its recommender.

To add a family of models, write a class as in `Engine` and add its line to `ENGINES`, and what makes its arrays to
`recbole_sid.exporting.forms`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from recbole_sid.errors import InputError, missing, nearest
from recbole_sid.util.installed import imported, with_installed


class Histories(NamedTuple):
    """Histories of item numbers, each of at least one item.

    Attributes:
        items: int64 [B, T], numbers 1 .. n_items - 1, the oldest first, 0 behind the last.
        lengths: int64 [B], from 1 to T.
    """

    items: np.ndarray
    lengths: np.ndarray

    def part(self, rows: np.ndarray) -> Histories:
        """Return those at `rows`, int64 [n], which rise, cut to the longest of them."""
        if len(rows) == len(self.lengths):
            return self
        lengths = self.lengths[rows]
        return Histories(self.items[rows, : int(lengths.max())], lengths)


class Engine(Protocol):
    """Ranks the items of a catalogue.

    Attributes:
        n_items: items are numbered 1 .. n_items - 1; 0 is padding.
        max_history: histories are cut to so many of their last items before they come here.
        beam_size: the model's own; 0: it does not search but scores every item, so that `rank` is not asked.
    """

    n_items: int
    max_history: int
    beam_size: int

    def rank(self, histories: Histories, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what the model's own decoding finds with a beam of at least `width`.

        Returns:
            items int64 [B, W], W <= width, by falling score, 0 beyond those found; scores float32 [B, W], -inf there.
        """
        ...

    def all_scores(self, histories: Histories) -> np.ndarray:
        """Return the exact scores float32 [B, n_items]; -inf for padding and for items that cannot be ranked."""
        ...

    def scores(self, histories: Histories, items: np.ndarray) -> np.ndarray:
        """Return the exact scores float32 [B, M] of items int64 [M]."""
        ...

    def explain(self, histories: Histories, items: np.ndarray) -> list[dict[str, Any]]:
        """Return, for each history b and its item ``items[b]`` (int64 [B]), what its score is made of.

        Each has ``probability``, ``levels`` (per level of the semantic ID its ``code``, ``probability`` and
        ``siblings``, the likeliest codes in its place, as ``[code, probability]``), ``parts`` (what each head or the
        memory says, by name) and ``remembered`` (numbers of the history's items that it was seen to follow).
        """
        ...


class BundleEngine(Engine, Protocol):
    """An engine that is built of a bundle."""

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]) -> Engine:
        """Build it of a bundle's arrays, which may be read-only, and settings.

        Raises:
            InputError: if an array is missing, or has another shape or type than the settings say.
        """
        ...


@runtime_checkable
class Prepares(Protocol):
    """What an engine has besides whose loops are compiled."""

    def prepare(self) -> None:
        """Have all loops ready that requests need: they are read from disk, or compiled and kept there."""
        ...


@runtime_checkable
class ReadsUsers(Protocol):
    """What an engine has besides whose model may ask who the user is."""

    def of_users(self, histories: Histories, users: Sequence[str]) -> Histories:
        """Return `histories` that tell whose they are; of empty ones too."""
        ...


# By the name that a bundle has it under: "module:class".
ENGINES: dict[str, str] = with_installed(
    "engines",
    {
        "items": "recbole_sid.serving.engines.items:ItemEngine",
        "mlp": "recbole_sid.serving.engines.tokens:MLPEngine",
        "t5": "recbole_sid.serving.engines.tokens:T5Engine",
        "tiger": "recbole_sid.serving.engines.torch_models:TIGEREngine",
        "tiger_causal_encoder": "recbole_sid.serving.engines.torch_models:CausalTIGEREngine",
        "causal": "recbole_sid.serving.engines.torch_models:CausalEngine",
        "onnx_scores": "recbole_sid.serving.engines.onnx_scores:ScoreEngine",
        "transitions": "recbole_sid.serving.engines.transitions:TransitionEngine",
    },
)


def engine_named(name: str) -> type[BundleEngine]:
    """Return the engine that `ENGINES` holds under `name`.

    Raises:
        InputError: if there is none, or it needs numba or torch, which is not installed.
    """
    if name not in ENGINES:
        raise InputError(f"Unknown engine '{name}'{nearest(name, ENGINES)}; known: {', '.join(sorted(ENGINES))}.")
    try:
        return imported(ENGINES[name])
    except ModuleNotFoundError as error:
        if error.name == "numba":
            raise missing("This bundle is ranked by compiled loops, which need numba", "fast") from error
        if error.name == "torch":
            raise InputError(
                "This bundle is ranked by a network in torch, which is not installed: pip install torch."
            ) from error
        raise
