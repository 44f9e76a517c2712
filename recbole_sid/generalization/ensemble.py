"""An item-ID model and a semantic-ID model in one ranking, weighted per user by the ID model's confidence.

Source: "How Well Does Generative Recommendation Generalize?", arXiv 2603.19809, section 5. For a user u with the ID
model's largest softmax probability s(u), the ID model's weight is ``sigmoid(q * (s(u) - tau))``: memorization, which ID
models are good at, shows as confidence. (The paper's equation 2 prints -q, against its own figure 8.) With
TransitionMemory as ID model, s(u) is the evidence of the rows that it looks up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType

from recbole_sid.capabilities import Capabilities
from recbole_sid.errors import InputError
from recbole_sid.evaluation.retrieved import Retrieved
from recbole_sid.generalization.id_answers import id_answers
from recbole_sid.generalization.members import ID_MODEL, SID_MODEL, adopt_members, build_member, member_config
from recbole_sid.settings import Settings, declare

# What is tuned, per fusion: names of parameters, in the order that the grid runs through them.
PARAMETERS = {"adaptive": ("q", "tau"), "fixed": ("alpha",)}
CANDIDATES = ("lists", "scores")


class Scored(NamedTuple):
    """Candidates of a batch with both models' scores, each scaled to 0..1 per user.

    Attributes:
        items: int64 [B, C], 0 where there is none.
        by_id, by_sid: [B, C], 0 for a candidate that the model does not have.
        confidence: [B], the indicator of the ID model's memorization (`id_answers.IDAnswers`).
    """

    items: torch.Tensor
    by_id: torch.Tensor
    by_sid: torch.Tensor
    confidence: torch.Tensor

    def fused(self, weight: torch.Tensor | float) -> torch.Tensor:
        """Return the scores [B, C] with the ID model's `weight` [B, 1], -inf where there is no candidate."""
        return (weight * self.by_id + (1 - weight) * self.by_sid).masked_fill(self.items == 0, -torch.inf)


@dataclass(frozen=True)
class EnsembleSettings(Settings):
    """An item-ID model and a semantic-ID model, weighted by the ID model's confidence: arXiv 2603.19809."""

    id_model_path: str | None = declare(
        None, "Checkpoint, or folder of a finished run, of SASRec or the like, or TransitionMemory.", file=True
    )
    sid_model_path: str | None = declare(None, "Likewise of TIGER, SIDMLP or SIDMLPPlusPlus.", file=True)
    id_model_config: dict[str, Any] = declare(
        {}, "Their settings: read from the checkpoints, kept in the ensemble's own."
    )
    sid_model_config: dict[str, Any] = declare({})
    fusion: str = declare(
        "adaptive",
        "adaptive: the ID model weighs sigmoid(q * (confidence - tau)); fixed: alpha.",
        choices=lambda: PARAMETERS,
    )
    candidates: str = declare(
        "lists",
        "lists: the best beam_size items of each, as in the paper; scores: all items.",
        choices=lambda: CANDIDATES,
    )
    alpha_grid: Any = declare(
        [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0], "Tried on validation; one value fixes it."
    )
    q_grid: Any = declare([1, 5, 9, 13])
    tau_grid: Any = declare([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    train_neg_sample_args: Any = declare(None)
    full_sort_items: int = declare(
        50000, "candidates=scores takes catalogues of up to this many items.", least=0, volatile=True
    )


class AdaptiveEnsemble(Capabilities, SequentialRecommender):
    """Ranks by ``w(u) * s + (1 - w(u)) * t``, s and t the min-max scaled scores of an ID and a SID model, both frozen.

    Configuration: id_model_path, sid_model_path (checkpoints of the same data); fusion (adaptive, or fixed: the same
    weight alpha for all); candidates (lists: the best beam_size items of each model, as in the paper; scores: every
    item by both, which exact scoring makes possible); alpha_grid, q_grid, tau_grid (tuned on validation by the
    trainer); beam_size. The checkpoint holds both models.

    Attributes:
        chosen: the parameters in use, by name; the first of the grid before `choose`.
    """

    settings = EnsembleSettings
    trainer = "recbole_sid.generalization.ensemble_trainer:EnsembleTrainer"

    input_type = InputType.POINTWISE
    uses_semantic_ids = True
    retrieves = True
    made_of = (f"{ID_MODEL}_path", f"{SID_MODEL}_path")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        settings = EnsembleSettings.of(config)
        self.fusion, self.candidates = settings.fusion, settings.candidates
        self.names = PARAMETERS[self.fusion]
        self.grid = list(product(*(_grid(config, name) for name in self.names)))
        self.beam_size = config["beam_size"]
        self.full_sort_items = settings.full_sort_items
        if self.candidates == "scores" and not self.scores_every_item:
            raise InputError(
                f"candidates=scores needs the score of every item: raise full_sort_items (now {self.full_sort_items}) "
                f"to the number of items {self.n_items - 1}, or set candidates=lists."
            )
        self.id_model = build_member(config, ID_MODEL, dataset)
        self.sid_model = build_member(config, SID_MODEL, dataset)
        self.register_buffer("parameters_in_use", torch.tensor(self.grid[0], dtype=torch.float64))

    @classmethod
    def check_config(cls, config: Any) -> None:
        """As `Capabilities.check_config`."""
        for name in PARAMETERS[config["fusion"]]:
            _grid(config, name)

    @classmethod
    def left_to_validation(cls, config: Any) -> list[str]:
        """As `Capabilities.left_to_validation`: a grid of one value sets it."""
        names = PARAMETERS[config["fusion"]]
        return [f"{name}_grid" for name in names if len(_grid(config, name)) > 1]

    @classmethod
    def semantic_id_config(cls, config: Any) -> Any:
        """Return the SID model's configuration.

        Raises:
            InputError: as `adopt_members`.
        """
        adopt_members(config)
        return member_config(config, SID_MODEL)

    def train(self, mode: bool = True) -> AdaptiveEnsemble:
        """Stay in eval mode: both models are trained already."""
        return super().train(False)

    @property
    def scores_every_item(self) -> bool:
        """Whether `full_sort_predict` scores all items, not the candidates only."""
        return self.candidates == "scores" and self.n_items - 1 <= self.full_sort_items

    @property
    def chosen(self) -> dict[str, float]:
        return dict(zip(self.names, self.parameters_in_use.tolist(), strict=True))

    def choose(self, values: tuple[float, ...]) -> None:
        """Use these parameters, in the order of `names`, from now on."""
        self.parameters_in_use.copy_(torch.tensor(values, dtype=torch.float64))

    def weight(self, confidence: torch.Tensor, values: Sequence[float] | torch.Tensor) -> torch.Tensor:
        """Return the weight [B, 1] of the ID model for users of this `confidence` [B], with parameters [2] or [1]."""
        if self.fusion == "fixed":
            return (torch.zeros_like(confidence) + values[0]).unsqueeze(1)
        q, tau = values
        return torch.sigmoid(q * (confidence - tau)).unsqueeze(1)

    @torch.no_grad()
    def score_candidates(self, interaction: Any) -> Scored:
        """Return the candidates of a batch with both models' scores; the costly part, whatever the weights."""
        logits, confidence = id_answers(self.id_model, interaction)
        if self.candidates == "scores":
            log_probs = self.sid_model.full_sort_predict(interaction).view(len(interaction), -1)
            items = torch.arange(self.n_items, device=logits.device).expand(len(interaction), -1)
            return Scored(items, min_max(logits), min_max(log_probs), confidence)
        top = logits.topk(min(self.beam_size, self.n_items - 1), dim=1)
        rows, sid_items, sid_scores = self.sid_model.retrieve(interaction)
        found = Retrieved(rows, sid_items, sid_scores, (len(interaction), self.n_items))
        by_sid = found.top_lists(self.beam_size), found.top_scores(self.beam_size)
        by_id = top.indices.masked_fill(top.values.isneginf(), 0), top.values
        return Scored(*merge_lists(*by_id, *by_sid), confidence)

    @torch.no_grad()
    def retrieve(self, interaction: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rank the candidates of each history.

        Returns:
            rows, items and scores, each [n]: by falling score within a row; ties keep the ID model's candidates first.
        """
        scored = self.score_candidates(interaction)
        fused = self._fused(scored)
        kept = min(2 * self.beam_size, fused.shape[1])
        if self.candidates == "scores":
            scores, place = fused.topk(kept, dim=1)
        else:
            scores, place = fused.sort(dim=1, descending=True, stable=True)
        items = scored.items.gather(1, place)
        rows = torch.arange(len(items), device=items.device).unsqueeze(1).expand_as(items)
        there = items > 0
        return rows[there], items[there], scores[there]

    @torch.no_grad()
    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        """Return fused scores [B * n_items] as RecBole expects, -inf for items that are no candidate."""
        scored = self.score_candidates(interaction)
        table = scored.by_id.new_full((len(interaction), self.n_items), -torch.inf)
        table.scatter_(1, scored.items, self._fused(scored))
        table[:, 0] = -torch.inf
        return table.view(-1)

    def predict(self, interaction: Any) -> torch.Tensor:
        """Return the fused score [B] of each row's item, -inf if it is no candidate."""
        table = self.full_sort_predict(interaction).view(len(interaction), -1)
        return table.gather(1, interaction[self.ITEM_ID].unsqueeze(1)).squeeze(1)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        """Refuse: the ensemble has nothing to learn by gradients."""
        raise InputError("AdaptiveEnsemble is tuned on validation by its own trainer, not trained: use `fit` of that.")

    def _fused(self, scored: Scored) -> torch.Tensor:
        return scored.fused(self.weight(scored.confidence, self.parameters_in_use))  # not read by the host


def min_max(scores: torch.Tensor) -> torch.Tensor:
    """Return scores [B, C] scaled to 0..1 per row; a row of equal scores is all 1, what is not finite is 0."""
    present = scores.isfinite()
    low = scores.masked_fill(~present, torch.inf).amin(dim=1, keepdim=True)
    high = scores.masked_fill(~present, -torch.inf).amax(dim=1, keepdim=True)
    scaled = torch.where(high > low, (scores - low) / (high - low), 1.0)
    return torch.where(present, scaled, 0.0)


def merge_lists(
    id_items: torch.Tensor, id_scores: torch.Tensor, sid_items: torch.Tensor, sid_scores: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the union of two lists of candidates per user, with the scaled scores of both.

    Args:
        id_items: int64 [B, K], 0 where there is none; an item at most once a row.
        id_scores: [B, K].
        sid_items, sid_scores: likewise [B, J].

    Returns:
        items int64 [B, K + J], those of the first list first, 0 where there is none; and their scores [B, K + J] by
        the first and by the second, 0 for an item that a list lacks.
    """
    by_id = min_max(id_scores.masked_fill(id_items == 0, -torch.inf))
    by_sid = min_max(sid_scores.masked_fill(sid_items == 0, -torch.inf))
    same = (id_items.unsqueeze(2) == sid_items.unsqueeze(1)) & (sid_items > 0).unsqueeze(1)
    shared = torch.where(same, by_sid.unsqueeze(1), 0.0).sum(dim=2)
    taken = same.any(dim=1)
    return (
        torch.cat([id_items, sid_items.masked_fill(taken, 0)], dim=1),
        torch.cat([by_id, torch.zeros_like(by_sid)], dim=1),
        torch.cat([shared, by_sid.masked_fill(taken, 0.0)], dim=1),
    )


def _grid(config: Any, name: str) -> list[float]:
    """Return the values of ``<name>_grid``.

    Raises:
        InputError: unless they are numbers; for alpha from 0 to 1, for q not negative.
    """
    values = config[f"{name}_grid"]
    highest = 1 if name == "alpha" else float("inf")
    lowest = float("-inf") if name == "tau" else 0
    numbers = isinstance(values, (list, tuple)) and len(values) > 0
    if not numbers or not all(_is_number(value) and lowest <= value <= highest for value in values):
        rule = {"alpha": " from 0 to 1", "q": " of at least 0"}.get(name, "")
        raise InputError(f"{name}_grid={values!r} must be a list of numbers{rule}.")
    return [float(value) for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
