"""A loader's batch, which the host can still read when it is on a device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from recbole.data.interaction import Interaction

from recbole_sid.data.dataset import ROW_FIELD
from recbole_sid.util import hardware


class Size(NamedTuple):
    """How much a batch is: rows, and items in their histories."""

    rows: int
    items: int


class Portion(NamedTuple):
    """What one of several processes has of a training batch, and the size of the whole."""

    own: Size
    whole: Size


class Batch(Interaction):
    """An interaction whose ROW_FIELD stays on the host when the rest moves to a device.

    Models do not read it, and what is kept on the host for each row is looked up without waiting for the device.

    Attributes:
        on_host: the fields as they were before they moved.
        portion: of a training batch that several processes share; None: it is whole.
    """

    portion: Portion | None = None

    def __init__(self, interaction: Any, on_host: Mapping[str, torch.Tensor] | None = None) -> None:
        super().__init__(interaction)
        self.on_host = dict(on_host if on_host is not None else self.interaction)

    def __getitem__(self, index: Any) -> Any:
        """Return a field, or the batch of some rows, as an interaction does; slices are on the host too."""
        if not isinstance(index, slice):
            return super().__getitem__(index)
        parts = (
            {name: values[index] for name, values in fields.items()} for fields in (self.interaction, self.on_host)
        )
        return Batch(*parts)

    def to(self, device: torch.device | str, selected_field: str | Iterable[str] | None = None) -> Batch:
        """Return the batch with its fields, or those of `selected_field`, on `device`; the host need not wait."""
        wanted = {selected_field} if isinstance(selected_field, str) else selected_field
        moving = set(self.interaction if wanted is None else wanted) - {ROW_FIELD}
        place = torch.device(device)
        fields = {
            name: hardware.moved(values, place) if name in moving else values
            for name, values in self.interaction.items()
        }
        return Batch(fields, self.on_host)


def portion_of(batch: Any) -> Portion:
    """Return what a training batch is of a whole one."""
    portion: Portion | None = getattr(batch, "portion", None)
    return portion or Portion(*[Size(len(batch), 0)] * 2)


def on_host(interaction: Interaction, *fields: str) -> list[torch.Tensor]:
    """Return fields of a batch on the host; of a loader's batch without waiting for the device that it is on."""
    known = getattr(interaction, "on_host", None) or {}
    return [known[name] if name in known else interaction[name].cpu() for name in fields]
