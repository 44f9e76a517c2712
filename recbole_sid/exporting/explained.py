"""Why one of our trained models gives an item its score: as `recbole_sid.serving.engine.Engine.explain` has it."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.data.histories import recent_items
from recbole_sid.decoding.children import masked_log_softmax
from recbole_sid.memory import Memory
from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.transition_memory import TransitionMemory

_SIBLINGS = 10


def explanations(model: SIDRecommender, interaction: Any, items: torch.Tensor) -> list[dict[str, Any]]:
    """Return what the score of item ``items[b]``, int64 [B], after history b is made of: as `Engine.explain`.

    Args:
        model: in evaluation mode.
        interaction: the histories.
        items: on the host.
    """
    scorer = model.scorer(model.encode(model.history_tokens(interaction)))
    parts = model.part_log_probs(scorer, torch.arange(len(items)), items)
    log_p0 = model.mixed(parts)
    found: list[dict[str, Any]] = [
        {"parts": dict(zip(model.parts, of_item, strict=True)), "levels": []} for of_item in parts.exp().T.tolist()
    ]
    probabilities = log_p0.exp()
    recall = model.recall(interaction)
    if recall is not None:
        masses = recall.mass_of(torch.arange(len(items)), items)
        probabilities = masses + recall.remaining * probabilities.cpu()
        _add_memory(found, masses, model.memory, model.recent(interaction), items)
    if "semantic IDs" in model.parts:
        for level in _levels(model, interaction, items.to(interaction[model.ITEM_SEQ].device)):
            for of_item, of_level in zip(found, level, strict=True):
                of_item["levels"].append(of_level)
    return [{"probability": value, **of_item} for value, of_item in zip(probabilities.tolist(), found, strict=True)]


def explanations_of_transitions(model: TransitionMemory, interaction: Any, items: torch.Tensor) -> list[dict[str, Any]]:
    """Return the same of the model that is nothing but a memory, and popularity."""
    recall = model.recall(interaction)
    masses = recall.mass_of(torch.arange(len(items)), items)
    popularity = model.base.probabilities[items]
    found: list[dict[str, Any]] = [{"parts": {"popularity": value}, "levels": []} for value in popularity.tolist()]
    window = model.memory.numbers.window
    recent = recent_items(interaction[model.ITEM_SEQ], interaction[model.ITEM_SEQ_LEN], window)
    _add_memory(found, masses, model.memory, recent, items)
    probabilities = masses + recall.remaining * popularity
    return [{"probability": value, **of_item} for value, of_item in zip(probabilities.tolist(), found, strict=True)]


def _add_memory(
    found: list[dict[str, Any]], masses: torch.Tensor, memory: Memory | None, recent: torch.Tensor, items: torch.Tensor
) -> None:
    assert memory is not None
    for of_item, mass, row, item in zip(found, masses.tolist(), recent, items.tolist(), strict=True):
        of_item["parts"]["memory"] = mass
        of_item["remembered"] = _precursors(memory, row, item)


def _levels(model: SIDRecommender, interaction: Any, items: torch.Tensor) -> list[list[dict[str, Any]]]:
    """Return per level, of each item, its code, how probable this is behind the codes before it, and the likeliest."""
    codes = model.item_codes[items]
    logits = model.target_logits(model.history_tokens(interaction), codes)
    found = []
    for level, nodes in enumerate(model.trie.path(model.trie.find(codes))):
        mask = model.trie.child_mask(level, nodes)
        among = torch.ones_like(mask) if model.shared_among == "codes" else mask
        shares = masked_log_softmax(logits[level], among).exp()
        of_code = shares.gather(1, codes[:, level : level + 1]).squeeze(1).tolist()
        best = shares.masked_fill(~mask, -1).topk(min(_SIBLINGS, shares.shape[1]), dim=1)
        siblings = [
            [pair for pair in zip(places, values, strict=True) if pair[1] >= 0]
            for places, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        rows = zip(codes[:, level].tolist(), of_code, siblings, strict=True)
        found.append([{"code": code, "probability": p, "siblings": likeliest} for code, p, likeliest in rows])
    return found


def _precursors(memory: Memory, recent: torch.Tensor, item: int) -> list[int]:
    """Return which of the items that are looked up, 0 for none, the memory saw `item` follow; each once."""
    known = [int(before) for before in dict.fromkeys(recent.tolist()) if before]
    return [before for before in known if item in memory.successors[memory.starts[before] : memory.starts[before + 1]]]
