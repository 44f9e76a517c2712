"""Histories of a batch, cut to its longest on the host: no device computes on padding, nor has the host to ask it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_sid.data.batch import Batch
from recbole_sid.util import hardware


def cut_histories(interaction: Interaction, field: str, length_field: str, step: int = 1) -> Interaction:
    """Return `interaction`, on the host, with all histories cut to the longest of them, or to a multiple of `step`.

    Args:
        field: of the items of the histories int64 [B, T]; other fields of as many columns and the same ending are cut
            alike.
        length_field: of the histories' lengths int64 [B].
    """
    longest = max(1, int(interaction[length_field].max())) if len(interaction) else 1
    longest = -(-longest // step) * step
    cut = {name: interaction[name][:, :longest] for name in _lists(interaction, field)}
    return Interaction({**interaction.interaction, **cut})


def widen_histories(interaction: Interaction, field: str, width: int) -> Interaction:
    """Return `interaction` with histories of `width` places again; the opposite of `cut_histories`, on any device."""
    wide = {}
    for name in _lists(interaction, field):
        values = interaction[name]
        padding = (0, 0) * (values.dim() - 2) + (0, width - values.shape[1])
        wide[name] = F.pad(values, padding)
    return Interaction({**interaction.interaction, **wide})


def known_items(history: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return histories int64 [B, T] without their unknown items (0), and how many are left int64 [B]."""
    known = history > 0
    n_known = known.sum(1)
    if hardware.on_cpu(history) and torch.equal(n_known, lengths):
        return history, lengths
    order = torch.argsort(known.int(), dim=1, descending=True, stable=True)  # the known ones first, in their order
    return history.gather(1, order), n_known


def recent_items(history: torch.Tensor, lengths: torch.Tensor, window: int) -> torch.Tensor:
    """Return the last known items of histories int64 [B, T], the most recent first: int64 [B, min(window, T)], 0 where
    there are no more.
    """
    known, n_known = known_items(history, lengths)
    place = n_known.unsqueeze(1) - 1 - torch.arange(min(window, known.shape[1]), device=known.device)
    return known.gather(1, place.clamp(min=0)).masked_fill(place < 0, 0)


def recent_places(history: torch.Tensor, lengths: torch.Tensor, window: int) -> torch.Tensor:
    """Return `recent_items` in as many places for every batch: int64 [B, window]."""
    found = recent_items(history, lengths, window)
    return F.pad(found, (0, window - found.shape[1]))


def _lists(interaction: Interaction, field: str) -> list[str]:
    """Return the fields that hold a value for each item of the histories in `field`, which is ``<items>_list``."""
    suffix, shape = field[field.rfind("_") :], interaction[field].shape
    return [
        name
        for name, values in interaction.interaction.items()
        if name.endswith(suffix) and values.dim() >= 2 and values.shape[:2] == shape
    ]


class CutBatches:
    """A loader's `collate_fn` whose batches have their histories cut, and are of class `Batch`.

    Args:
        collate: the loader's own; returns an interaction, or a tuple that begins with one.
        field, length_field, step: as of `cut_histories`.
    """

    def __init__(self, collate: Callable[[Any], Any], field: str, length_field: str, step: int = 1) -> None:
        self.collate, self.field, self.length_field, self.step = collate, field, length_field, step

    def __call__(self, index: Any) -> Any:
        batch = self.collate(index)
        return (self._cut(batch[0]), *batch[1:]) if isinstance(batch, tuple) else self._cut(batch)

    def _cut(self, interaction: Interaction) -> Batch:
        return Batch(cut_histories(interaction, self.field, self.length_field, self.step).interaction)
