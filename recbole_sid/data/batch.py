"""A loader's batch, which keeps its row numbers on the host."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from recbole.data.interaction import Interaction

from recbole_sid.data.dataset import ROW_FIELD
from recbole_sid.util import hardware


class Batch(Interaction):
    """An interaction whose ROW_FIELD stays on the host when the rest moves to a device.

    Models do not read it, and what is kept on the host for each row is looked up without waiting for the device.
    """

    def to(self, device: torch.device | str, selected_field: str | Iterable[str] | None = None) -> Batch:
        """Return the batch with its fields, or those of `selected_field`, on `device`; the host need not wait."""
        wanted = {selected_field} if isinstance(selected_field, str) else selected_field
        moving = set(self.interaction if wanted is None else wanted) - {ROW_FIELD}
        place = torch.device(device)
        return Batch(
            {
                name: hardware.moved(values, place) if name in moving else values
                for name, values in self.interaction.items()
            }
        )
