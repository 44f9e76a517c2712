"""Where the difficulty is: what each level of the target's semantic ID costs a model, and where a beam loses it."""

from __future__ import annotations

from typing import Any

import torch

from recbole_sid.decoding.children import children, masked_log_softmax
from recbole_sid.decoding.scorer import LevelScorer
from recbole_sid.util.progress import progress


@torch.no_grad()
def level_difficulty(model: Any, data: Any, show_progress: bool = False) -> list[dict[str, Any]]:
    """Measure each level on the true prefixes of a full-ranking split (SID-MLP, section 3: difficulty falls sharply
    after the first code).

    Args:
        model: a SID model (`SIDRecommender`).
        data: loader of the validation or test split.
        show_progress: a bar over batches.

    Returns:
        a row for each level: level (from 1), size, children (mean number of valid codes after the true prefix),
        only_child (share of instances with one), accuracy and cross_entropy (nats) of the true code among the valid
        ones, accuracy_all and cross_entropy_all among all codes of the level, all teacher-forced; in_beam (share of
        instances whose true prefix up to this level a constrained beam search keeps).
    """
    model.eval()
    sums: dict[str, torch.Tensor] = {}
    n_instances = 0
    for interaction, _, rows, items in progress(data, "levels", show_progress):
        codes = model.item_codes[items.to(model.device)]
        tokens = model.history_tokens(interaction.to(model.device)[rows])
        for name, values in _batch(model, tokens, codes).items():
            sums[name] = sums.get(name, 0) + values
        n_instances += len(codes)
    means = {name: (values / max(1, n_instances)).tolist() for name, values in sums.items()}
    sizes = model.trie.codebook_sizes
    return [
        {"level": level + 1, "size": size, **{name: means[name][level] for name in means}}
        for level, size in enumerate(sizes)
    ]


def _batch(model: Any, tokens: torch.Tensor, codes: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return sums over a batch, float64 [L] each."""
    trie = model.trie
    prefixes = trie.path(trie.find(codes))
    found: dict[str, list[torch.Tensor]] = {}
    for level, logits in enumerate(model.target_logits(tokens, codes)):
        true = codes[:, level : level + 1]
        mask = trie.child_mask(level, prefixes[level])
        count = mask.sum(1)
        valid, free = masked_log_softmax(logits, mask), logits.float().log_softmax(-1)
        measured = {
            "children": count,
            "only_child": count == 1,
            "accuracy": valid.argmax(1, keepdim=True) == true,
            "accuracy_all": free.argmax(1, keepdim=True) == true,
            "cross_entropy": -valid.gather(1, true),
            "cross_entropy_all": -free.gather(1, true),
        }
        for name, values in measured.items():
            found.setdefault(name, []).append(values.double().sum())
    found["in_beam"] = _kept(model, model.scorer(model.encode(tokens)), codes, prefixes)
    return {name: torch.stack(values) for name, values in found.items()}


def _kept(model: Any, scorer: LevelScorer, codes: torch.Tensor, prefixes: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return for each level how many of the true prefixes a beam search keeps: `beam_search`, watched."""
    trie = model.trie
    true = [*prefixes[1:], trie.find(codes)]
    state = scorer.start()
    nodes = codes.new_zeros(len(codes), 1)
    scores = torch.zeros(len(codes), 1, device=codes.device)
    kept = []
    for level in range(trie.n_levels):
        found = children(scorer, trie, level, state, nodes, scores, "children")
        nodes, parents, scores = found.best(model.beam_size)
        kept.append((nodes == true[level].unsqueeze(1)).any(1).double().sum())
        if level + 1 < trie.n_levels:
            state = scorer.extend(state, parents, trie.code(level)[nodes.clamp(min=0)].long())
    return kept
