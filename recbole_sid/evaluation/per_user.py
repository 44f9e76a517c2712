"""What a model answered each user: the rank of the target and the list, so that no later analysis needs a re-run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from recbole.data.dataloader import FullSortEvalDataLoader

from recbole_sid import compat  # noqa: F401 - patches RecBole
from recbole_sid.distributed.group import Group, current_group
from recbole_sid.errors import InputError
from recbole_sid.evaluation.parts import part_of
from recbole_sid.evaluation.retrieved import Retrieved
from recbole_sid.evaluation.runs import list_types
from recbole_sid.util.progress import progress

LIST_SIZE = 50


@torch.no_grad()
def per_user_results(trainer: Any, data: Any, size: int = LIST_SIZE, show_progress: bool = False) -> pd.DataFrame:
    """Rank the catalogue for every instance of a full-ranking split, for any model of ours or RecBole's.

    Args:
        trainer: whose ``model`` holds the weights to judge.
        data: loader of the validation or test split.
        size: length of the lists that are kept.
        show_progress: a bar over batches.

    The processes of a group rank a part each, and all get the rows of all.

    Returns:
        one row for each (user, target), in the order of the split: user and target (tokens), rank (int32, from 1, of
        the target in the list; 0 if it is not there), items (tokens, best first, at most `size`) and scores (float32).

    Raises:
        InputError: if the split is not ranked in full.
    """
    require_full_ranking(data)
    trainer.model.eval()
    trainer.tot_item_num = data._dataset.item_num
    answers, group = AnswersOfUsers(trainer, data, size), current_group()
    with part_of(data, group):
        for batch in progress(data, "results per user", show_progress):
            answers.add(*trainer._full_sort_batch_eval(batch))
    return answers.frame(group)


def require_full_ranking(data: Any) -> None:
    """Raise InputError if a split is not ranked in full."""
    if not isinstance(data, FullSortEvalDataLoader):
        raise InputError("Results per user need full ranking: set eval_args.mode to full.")


class AnswersOfUsers:
    """Gathers what a model answered, batch by batch.

    Args:
        trainer: that ranks.
        data: loader of the split.
        size: length of the lists that are kept.
    """

    def __init__(self, trainer: Any, data: Any, size: int) -> None:
        self.dataset, self.size = data._dataset, size
        self.user_field = trainer.config["USER_ID_FIELD"]
        self.evaluated = max(trainer.config["topk"])
        self.parts: list[tuple[torch.Tensor, ...]] = []

    def add(self, interaction: Any, found: Any, positive_u: torch.Tensor, positive_i: torch.Tensor) -> None:
        """Keep a batch as a trainer's ``_full_sort_batch_eval`` returns it; nothing waits for a GPU."""
        if isinstance(found, Retrieved):
            lists, scores = found.top_lists(self.size), found.top_scores(self.size)
        else:
            scores, lists = _top(found, self.size, self.evaluated)
        rows = positive_u.to(lists.device)
        targets = positive_i.to(lists.device)
        hits = (lists[rows] == targets.unsqueeze(1)) & (lists[rows] > 0)
        ranks = torch.where(hits.any(1), hits.int().argmax(1) + 1, 0)
        users = interaction[self.user_field][positive_u]
        self.parts.append((users, positive_i, ranks.int(), lists[rows], scores[rows].float()))

    def frame(self, group: Group) -> pd.DataFrame:
        """Return what all processes of `group` gathered, as `per_user_results` does."""
        parts = [[values.cpu().numpy() for values in part] for part in self.parts]
        every = [part for of_process in group.gather(parts) for part in of_process]
        users, targets, ranks, items, scores = (np.concatenate(column) for column in zip(*every, strict=True))
        dataset = self.dataset
        user_tokens, item_tokens = (
            pa.array(np.asarray(dataset.field2id_token[field], dtype=str))
            for field in (dataset.uid_field, dataset.iid_field)
        )
        offsets = np.concatenate([[0], np.cumsum((items > 0).sum(1))]).astype(np.int32)
        table = {
            "user": user_tokens.take(pa.array(users)),
            "target": item_tokens.take(pa.array(targets)),
            "rank": pa.array(ranks),
            "items": pa.ListArray.from_arrays(offsets, item_tokens.take(pa.array(items[items > 0]))),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(scores[items > 0])),
        }
        return pa.table(table).to_pandas(types_mapper=list_types)


def rank_metrics(ranks: np.ndarray, topk: list[int]) -> dict[str, np.ndarray]:
    """Return each row's ``recall@k`` and ``ndcg@k``, float64 [n]: RecBole's metrics of one target, not averaged.

    Args:
        ranks: int [n], from 1; 0 where the target is not in the list.
        topk: the cut-offs.
    """
    found: dict[str, np.ndarray] = {}
    gain = 1 / np.log2(np.maximum(ranks, 1) + 1)
    for k in topk:
        hit = (ranks > 0) & (ranks <= k)
        found[f"recall@{k}"] = hit.astype(np.float64)
        found[f"ndcg@{k}"] = np.where(hit, gain, 0.0)
    return found


def _top(table: torch.Tensor, size: int, evaluated: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the best scores and items [B, size] of scores [B, n_items], 0 where nothing is left.

    The first `evaluated` places are the evaluator's: which of two equal scores `topk` puts first depends on its k.
    """
    evaluated, size = min(evaluated, table.shape[1]), min(size, table.shape[1])
    scores, items = table.topk(evaluated, dim=1)
    if size > evaluated:
        rest = table.scatter(1, items, -torch.inf).topk(size - evaluated, dim=1)
        scores, items = torch.cat([scores, rest.values], dim=1), torch.cat([items, rest.indices], dim=1)
    missing = scores.isneginf()
    return scores.masked_fill(missing, 0), items.masked_fill(missing, 0)
