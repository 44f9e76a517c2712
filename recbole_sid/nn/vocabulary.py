"""The token vocabulary of a SID model and how histories become token sequences.

Token ids: 0 pad and decoder start; level t code c -> 1 + c + sum of the sizes of the levels before; then user tokens;
then end-of-sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

PAD = 0


class TokenVocabulary:
    """Token ids for the codes of any number of levels and any codebook sizes.

    Args:
        codebook_sizes: codes per level, length L.
        n_user_tokens: users share this many tokens (user id modulo n_user_tokens).

    Attributes:
        level_offsets: first token id of each level.
        user_offset: first user token id.
        eos: end-of-sequence token id.
        size: number of token ids.
    """

    def __init__(self, codebook_sizes: Sequence[int], n_user_tokens: int = 1) -> None:
        self.codebook_sizes = tuple(codebook_sizes)
        self.n_user_tokens = n_user_tokens
        offsets = [1]
        for size in self.codebook_sizes:
            offsets.append(offsets[-1] + size)
        self.level_offsets = tuple(offsets[:-1])
        self._offsets_on: dict[torch.device, torch.Tensor] = {}
        self.user_offset = offsets[-1]
        self.eos = self.user_offset + n_user_tokens
        self.size = self.eos + 1

    @property
    def n_levels(self) -> int:
        """Number of levels L."""
        return len(self.codebook_sizes)

    def code_tokens(self, codes: torch.Tensor) -> torch.Tensor:
        """Return token ids of the codes of the first levels: int64 [..., t] -> [..., t], t <= L."""
        if codes.device not in self._offsets_on:  # once: a copy from the host is nothing that a CUDA graph can hold
            self._offsets_on[codes.device] = torch.tensor(self.level_offsets, device=codes.device)
        return codes + self._offsets_on[codes.device][: codes.shape[-1]]

    def cut(self, logits: torch.Tensor, level: int) -> torch.Tensor:
        """Return the part of logits [..., size] over the codes of `level` (from 0)."""
        start = self.level_offsets[level]
        return logits[..., start : start + self.codebook_sizes[level]]

    def serialise(self, item_tokens: torch.Tensor, lengths: torch.Tensor, users: torch.Tensor) -> torch.Tensor:
        """Return ``[user, c1..cL of item 1, c1..cL of item 2, ..., eos, pad...]``.

        Args:
            item_tokens: code tokens of each item of the history, int64 [B, T, L], zero where padded (on the right).
            lengths: items per history, int64 [B].
            users: user ids, int64 [B].

        Returns:
            int64 [B, 2 + T * L].
        """
        batch, n_items, n_levels = item_tokens.shape
        tokens = item_tokens.new_zeros(batch, 2 + n_items * n_levels)
        tokens[:, 0] = self.user_offset + users % self.n_user_tokens
        tokens[:, 1:-1] = item_tokens.flatten(1)
        tokens.scatter_(1, (1 + lengths * n_levels).unsqueeze(1), self.eos)
        return tokens
