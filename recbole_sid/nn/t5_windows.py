"""A T5 with a causal encoder over windows: one pass of the encoder serves the decoder for many prefixes of a history.

States of codes know only what is before them, so that all prefixes share them. What a prefix has of its own is the
end-of-sequence behind it, which stands at its end and sees it, and is seen by nobody else.
"""

from __future__ import annotations

import torch

from recbole_sid.nn.t5 import Attention, T5Decoder, T5Encoder

# A batch of windows is read in parts of similar ones if that saves this share of the positions or more.
_WORTHWHILE_SAVING = 0.1
_MAX_PARTS = 4


def windows_alike(lengths: torch.Tensor, n_targets: torch.Tensor, n_levels: int) -> list[torch.Tensor]:
    """Return the rows int64 of each part of a batch of windows that is best read together.

    Args:
        lengths: items of each window without its last target, int64 [B], on the host.
        n_targets: how many of its last items are targets, int64 [B].
        n_levels: codes of an item.
    """
    first = lengths - n_targets + 1

    def positions(rows: torch.Tensor) -> int:
        longest = int(lengths[rows].max())
        n_prefixes = longest - int(first[rows].min()) + 1
        return len(rows) * (longest * n_levels + n_prefixes * (2 + n_levels))  # of the encoder, and of the decoder

    order = torch.argsort(lengths * (int(n_targets.max()) + 1) + n_targets, stable=True)
    parts = [part for part in order.tensor_split(_MAX_PARTS) if len(part)]
    whole = positions(order)
    return parts if sum(map(positions, parts)) < (1 - _WORTHWHILE_SAVING) * whole else [order]


class WindowPrefixes:
    """Where the prefixes of `first` to `last` items of histories lie in one pass.

    A row is ``[user, codes of `last` items, eos, ..., eos]``, an end for each of the ``T = last - first + 1`` prefixes.

    Args:
        first, last: items of the shortest and of the longest prefix.
        n_levels: codes of an item.
        device: of what is computed.

    Attributes:
        lengths: int64 [T], items of each prefix.
        positions: int64 [S], where each token of a row stands in the histories that it is of.
        seen: bool [S, S], which tokens (columns) each token of the encoder sees.
        read: bool [T, S], which states each prefix has.
    """

    def __init__(self, first: int, last: int, n_levels: int, device: torch.device) -> None:
        self.lengths = torch.arange(first, last + 1, device=device)
        codes = torch.arange(1 + last * n_levels, device=device)
        ends = 1 + self.lengths * n_levels
        self.positions = torch.cat([codes, ends])
        place = torch.arange(len(self.positions), device=device)
        # A code sees up to its own place, an end what is before it, and itself.
        before = torch.cat([codes + 1, ends])
        self.seen = (place < before.unsqueeze(1)) | (place == place.unsqueeze(1))
        self.read = self.seen[len(codes) :]

    def states(self, encoder: T5Encoder, tokens: torch.Tensor, eos: int) -> torch.Tensor:
        """Return the states [B, S, d] of ``[user, codes of `last` items]`` int64 [B, 1 + last * n_levels]."""
        ends = tokens.new_full((len(tokens), len(self.lengths)), eos)
        bias = encoder.relative_bias(self.positions, self.positions).masked_fill(~self.seen, -torch.inf)
        return encoder.encoded(torch.cat([tokens, ends], dim=1), bias)

    def decoded(self, decoder: T5Decoder, embedded: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return decoder states [B, T, n, d] for embedded targets [B, T, n, d] after each prefix.

        Args:
            decoder: of the encoder.
            embedded: the target tokens before each, of every prefix.
            states: of `states`.
        """
        n = embedded.shape[2]
        read = self.read.repeat_interleave(n, dim=0)
        bias = torch.zeros(read.shape, device=read.device).masked_fill(~read, -torch.inf)

        def cross(attention: Attention, x: torch.Tensor) -> torch.Tensor:
            return attention(x.flatten(1, 2), states, bias).unflatten(1, (-1, n))

        return decoder.decoded(embedded, cross)
