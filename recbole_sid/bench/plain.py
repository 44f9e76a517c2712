"""The paper's decoding, transcribed as its description says it, with the weights of our models.

"MLPs are Efficient Distilled Generative Recommenders", arXiv 2605.12617, sections 3 to 5 of the method: what the fast
paths are measured against and what they must agree with.
"""

from __future__ import annotations

from math import prod
from typing import Any, cast

import torch
from torch import nn

from recbole_sid.nn.readout import Readout
from recbole_sid.nn.token_encoder import Mean, MLPEncoder, WeightedMean

# A mask over all combinations of codes is what the paper's authors look valid children up in: one byte a combination.
_LARGEST_MASK_BYTES = 256 << 20


class PlainDecoder:
    """Beam search of the paper with the heads of one of our students.

    Args:
        model: a SIDMLP or SIDMLPPlusPlus in eval mode; its beam_size is the width.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.sizes: tuple[int, ...] = model.vocabulary.codebook_sizes
        self.masks = dense_masks(model.item_codes[1:], self.sizes)

    def search(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return leaves int64 [B, K] of the model's trie by falling score and scores [B, K], for contexts z [B, d].

        Fewer than K reachable leaves leave -1 with score -inf.
        """
        heads, embedding = self.model.decoder.heads, self.model.token_embedding
        offsets = self.model.vocabulary.level_offsets
        batch, device = len(context), context.device
        prefixes = torch.zeros(batch, 1, 0, dtype=torch.int64, device=device)
        scores = torch.zeros(batch, 1, device=device)
        inputs = context  # [B * K, d * t]
        user = torch.arange(batch, device=device).unsqueeze(1)
        for level, size in enumerate(self.sizes):
            logits = heads[level](inputs).float()
            valid = self.valid_children(prefixes.flatten(0, 1))
            log_probs = logits.masked_fill(~valid, -torch.inf).log_softmax(-1).masked_fill(~valid, -torch.inf)
            total = (scores.unsqueeze(-1) + log_probs.view(batch, -1, size)).flatten(1)
            scores, index = total.topk(min(self.model.beam_size, total.shape[1]), dim=1)
            parents, codes = index // size, index % size
            kept = prefixes.gather(1, parents.unsqueeze(-1).expand(-1, -1, level))
            prefixes = torch.cat([kept, codes.unsqueeze(-1)], dim=-1)
            if level + 1 < len(self.sizes):
                rows = (user * (len(inputs) // batch) + parents).flatten()
                inputs = torch.cat([inputs[rows], embedding(codes.flatten() + offsets[level])], dim=-1)
        leaves = self.model.trie.find(prefixes)
        return torch.where(scores > -torch.inf, leaves, -1), scores

    def valid_children(self, prefixes: torch.Tensor) -> torch.Tensor:
        """Return which codes continue prefixes int64 [n, t]: bool [n, size of level t]."""
        level = prefixes.shape[1]
        mask = self.masks[level]
        if mask is not None:
            return mask[combination(prefixes, self.sizes)]
        trie = self.model.trie
        nodes = torch.zeros_like(prefixes[:, 0])
        for depth in range(level):
            nodes = trie.child(depth, nodes, prefixes[:, depth])
        return trie.child_mask(level, nodes)


def plain_decode(model: Any, states: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Read states [B, S, d] out under mask bool [B, S], then search.

    Args:
        model: as in `PlainDecoder`.

    Returns:
        leaves of the model's trie int64 [B, K] by falling score, -1 where fewer are reachable; log-probabilities.
    """
    return PlainDecoder(model).search(plain_readout(model.decoder.readout, states, mask))


def plain_readout(readout: Readout, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the user context z [B, d] with keys and values of all tokens formed.

    Args:
        readout: weights, in eval mode.
        states: [B, S, d].
        mask: bool [B, S].
    """
    pooled = (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
    query = readout.query(pooled)
    heads = readout.n_heads
    q, k, v = (  # [B, h, 1 or S, e]
        projected.unflatten(-1, (heads, -1)).transpose(1, 2)
        for projected in (readout.q_proj(query).unsqueeze(1), readout.k_proj(states), readout.v_proj(states))
    )
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5  # [B, h, 1, S]
    weights = scores.masked_fill(~mask[:, None, None, :], -torch.inf).softmax(-1)
    attended = readout.out_proj((weights @ v).transpose(1, 2).flatten(1))
    x = readout.norm1(query + attended)
    return readout.norm2(x + readout.ffn(x))


def plain_mlp_encoder(encoder: MLPEncoder, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return states [B, S, d]: the MLPs of all roles run on all tokens, padding included, and a mask picks one.

    Args:
        encoder: weights, in eval mode.
        tokens: int64 [B, S].
        mask: bool [B, S].
    """
    column = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    role = (column - 1) % encoder.n_roles
    role = torch.where(tokens == encoder.eos, encoder.n_roles - 1, role)
    position = encoder.counted(column, mask.sum(1, keepdim=True)).clamp(min=0)
    x = encoder.embedding(tokens) + encoder.position(position)
    valid = mask.unsqueeze(-1)
    means = cast("list[Mean | WeightedMean]", list(encoder.means))
    for mean_of, layer in zip(means, cast("list[nn.ModuleList]", list(encoder.layers)), strict=True):
        weights = valid * mean_of.weights(position)
        mean = (x * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)
        inputs = torch.cat([x, mean.expand_as(x)], dim=-1)
        update = torch.zeros_like(x)
        for number, mlp in enumerate(layer):
            update = update + mlp(inputs) * (role == number).unsqueeze(-1)
        x = x + update
    return encoder.norm(x) * valid


def dense_masks(codes: torch.Tensor, sizes: tuple[int, ...]) -> list[torch.Tensor | None]:
    """Return per level the valid children of every combination of codes before it.

    Args:
        codes: of all items, int64 [n_items, L].
        sizes: codes per level.

    Returns:
        bool [combinations, size], or None where that exceeds 256 MB.
    """
    masks: list[torch.Tensor | None] = []
    for level in range(len(sizes)):
        n_combinations = prod(sizes[: level + 1])
        if n_combinations > _LARGEST_MASK_BYTES:
            masks.append(None)
            continue
        mask = torch.zeros(n_combinations, dtype=torch.bool, device=codes.device)
        mask[combination(codes[:, : level + 1], sizes)] = True
        masks.append(mask.view(-1, sizes[level]))
    return masks


def combination(prefixes: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """Return the number of each prefix int64 [n, t] among all combinations of its codes: int64 [n]."""
    number = torch.zeros(len(prefixes), dtype=torch.int64, device=prefixes.device)
    for level in range(prefixes.shape[1]):
        number = number * sizes[level] + prefixes[:, level]
    return number
