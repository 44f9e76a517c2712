"""RecBole's Collector, in which an item that was not retrieved is never a hit."""

from __future__ import annotations

from typing import Any

import torch
from recbole.evaluator import Collector


class RetrievedItemsCollector(Collector):
    """Collects top-k lists from scores whose -inf entries mean "not retrieved".

    RecBole 1.2.1 (recbole/evaluator/collector.py, `eval_batch_collect`) takes the top k of the scores whatever they
    are, so with fewer than k retrieved items arbitrary others fill the list and can count as hits.
    """

    def eval_batch_collect(
        self, scores_tensor: torch.Tensor, interaction: Any, positive_u: torch.Tensor, positive_i: torch.Tensor
    ) -> None:
        """Collect a batch: scores [B, n_items]; positive_u, positive_i are the rows and items of the targets."""
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if not (self.register.need("rec.topk") or self.register.need("rec.items")):
            return
        scores = scores_tensor.topk(max(self.topk), dim=-1).values
        missing = torch.isneginf(scores)
        if missing.any():
            self._mend("rec.topk", missing)
            self._mend("rec.items", missing)

    def _mend(self, name: str, missing: torch.Tensor) -> None:
        """Put no hit (in rec.topk) or the padding item (in rec.items) where nothing was retrieved."""
        if name in self.data_struct:
            batch = self.data_struct[name][-len(missing) :]
            batch[:, : missing.shape[1]].masked_fill_(missing, 0)
