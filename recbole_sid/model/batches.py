"""How batches are ranked: in groups of like length, by shapes or by values; and what was found as lists."""

from __future__ import annotations

import torch

from recbole_sid.util import hardware

# A batch is ranked in groups of similar history length if that saves this share of the tokens or more.
_WORTHWHILE_SAVING = 0.1
_MAX_GROUPS = 4


def is_cpu_inference(tokens: torch.Tensor) -> bool:
    """Say whether histories are encoded without gradients on the CPU, where shapes may follow the data."""
    return hardware.on_cpu(tokens) and not torch.is_grad_enabled()


def length_groups(lengths: torch.Tensor, tokens_per_item: int) -> list[torch.Tensor | None]:
    """Split a batch into at most four groups of similar length, so that short histories do not pay for long ones.

    Args:
        lengths: items per history int64 [B].
        tokens_per_item: L.

    Returns:
        row numbers per group; [None], meaning the whole batch, where splitting saves little.
    """
    order = torch.argsort(lengths, stable=True)
    groups = [group for group in order.tensor_split(_MAX_GROUPS) if len(group)]
    tokens = 2 + lengths * tokens_per_item
    whole = len(lengths) * int(tokens.max())
    split = sum(len(group) * int(tokens[group].max()) for group in groups)
    return list(groups) if split < (1 - _WORTHWHILE_SAVING) * whole else [None]


def listed(items: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rows, items and scores, each [n], as `SIDRecommender.retrieve` does, of items and scores [B, K].

    On the CPU without the places that hold no item (0); elsewhere the host would have to wait to know these.
    """
    rows = torch.arange(len(items), device=items.device).unsqueeze(1).expand_as(items)
    if not hardware.on_cpu(items):
        return rows.flatten(), items.flatten(), scores.flatten()
    there = items > 0
    return rows[there], items[there], scores[there]
