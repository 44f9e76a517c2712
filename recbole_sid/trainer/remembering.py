"""What a SID model's scores are mixed of, chosen after training on validation: memory, sharpness, shares of its parts.

Training and its early stopping know nothing of it, so that a run with a memory can take up the finished training of the
same run without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from recbole_sid.data.histories import recent_places
from recbole_sid.distributed.group import current_group
from recbole_sid.errors import InputError
from recbole_sid.evaluation.per_user import rank_metrics
from recbole_sid.fast.prepared import weights_unchanged
from recbole_sid.memory import Memory, Numbers
from recbole_sid.memory.mixture import sharpened
from recbole_sid.model.base import SIDRecommender
from recbole_sid.settings.training import MemorySettings
from recbole_sid.trainer.alike import known_alike
from recbole_sid.trainer.selection import best_by_groups, rank_metric, shown, varied
from recbole_sid.util.progress import progress

_TEXT_WEIGHTS, _SHARPNESSES = (0.0, 1.0, 3.0, 6.0), (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
# Tried together, the others as they are; the first of each is where the search begins.
_TRIED: Sequence[tuple[tuple[str, ...], Sequence[tuple[float, ...]]]] = (
    (("hops", "hop_decay"), ((5, 0.5), (1, 0.3), (3, 0.3), (3, 0.5), (5, 0.3), (5, 0.8), (10, 0.8))),
    (("window", "window_decay"), ((5, 0.3), (1, 0.3), (3, 0.3), (5, 0.5), (10, 0.5), (10, 0.8))),
    (("pseudo_counts",), ((3.0,), (1.0,), (10.0,), (30.0,), (100.0,))),
    # Together: what likeness of items says, the model's sharpness would say too.
    (
        ("text_weight", "sharpness"),
        ((3.0, 0.25), *((weight, sharpness) for weight in _TEXT_WEIGHTS for sharpness in _SHARPNESSES)),
    ),
)
# Instances of validation that the choice is made by, and that a memory looks up together.
_MOST_INSTANCES, _TOGETHER = 20_000, 1024
# Of what each of these memories gives the most mass to, so many items a history compete for the choice, beside what the
# model finds.
_MOST_REMEMBERED = 50
_NARROW, _WIDE = Numbers(3, 0.3, 5, 0.3), Numbers(10, 0.8, 10, 0.8)
_TEXT_WEIGHT = 3.0  # of both, where items are known to be alike
_OF_MEMORY = tuple(MemorySettings.declarations())


class Blend(NamedTuple):
    """All that is chosen: `Numbers` of the memory, and what `SIDRecommender` calls so."""

    hops: int
    hop_decay: float
    window: int
    window_decay: float
    pseudo_counts: float
    text_weight: float
    sharpness: float
    shares: tuple[float, ...]

    @property
    def numbers(self) -> Numbers:
        """The memory's."""
        return Numbers(**{name: getattr(self, name) for name in Numbers._fields})


class Competing(NamedTuple):
    """Validation instances with the items that compete in each: P pairs, those of an instance together.

    Attributes:
        recent: int64 [n, W], their last items, the most recent first.
        rows, items: int64 [P].
        log_probs: [n_parts, P], of each part of the model.
        target: int64 [n], which of the pairs is the target.
    """

    recent: torch.Tensor
    rows: torch.Tensor
    items: torch.Tensor
    log_probs: torch.Tensor
    target: torch.Tensor


def check_choice(model: Any, config: Any, valid_data: Any) -> None:
    """Raise InputError if there is something to choose after training, and no way to; warn of keys without use."""
    if model.memory is None:
        unused = [key for key, value in _undecided(model).items() if key in _OF_MEMORY and config[key] != value]
        if unused:
            getLogger().warning(f"Without memory=transitions there is no use for {', '.join(unused)}.")
    keys = model.left_to_validation(config)
    if not keys:
        return
    if not valid_data:
        raise InputError(
            f"{config['model']} has numbers that are chosen on validation: set eval_args.split to LS: valid_and_test, "
            f"or set all of {', '.join(keys)}."
        )
    rank_metric(config, valid_data)


def _fixed(model: Any, config: Any) -> dict[str, Any]:
    """Return the fields of `Blend` that the user has set, or that mean nothing without a memory."""
    if model.memory is None:
        return {**Numbers()._asdict(), "sharpness": 0.0}
    values = {name.removeprefix("memory_"): config[name] for name in _OF_MEMORY}
    return {name: value for name, value in values.items() if name in Blend._fields and value is not None}


def decides_after_training(model: Any) -> bool:
    """Say whether `model` has anything that is set after training."""
    return isinstance(model, SIDRecommender) and (model.memory is not None or len(model.parts) > 1)


def undecide(model: Any) -> None:
    """Let `model` be as training finds it: with an empty memory, the shares as they are before any are chosen."""
    if decides_after_training(model):
        empty = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
        _apply(model, empty, Blend(*Numbers(), 0.0, model.shares_tried(_undecided(model))[0]))


def _undecided(model: Any) -> dict[str, Any]:
    """Return the defaults of the keys of what is decided after training."""
    return {key: model.settings.default(key) for key in model.chosen_after_training}


def finished_without(trainer: Any) -> Path | None:
    """Return the checkpoint that the training of this run would have where what is chosen after it is at its default,
    as without a memory; None if this run is that.
    """
    plain = _undecided(trainer.model)
    if all(trainer.config[key] == value for key, value in plain.items()):
        return None
    return Path(trainer.checkpoint_dir) / f"{trainer.config.run_name_with(plain)}.pth"


@torch.no_grad()
def remember(model: Any, config: Any, train_data: Any, valid_data: Any, show_progress: bool = False) -> str:
    """Let a trained model learn its memory, and choose what is not set; return a sentence about it for the log.

    In a group of processes the main one chooses, and all learn the same.
    """
    model.eval()
    group = current_group()
    fixed, shares = _fixed(model, config), model.shares_tried(config)
    if model.memory is not None:
        model.memory.alike = group.from_main(known_alike(config, train_data._dataset) if group.is_main else None)
        if model.memory.alike is None:
            fixed["text_weight"] = 0.0
    first: dict[str, Any] = {name: values[0] for name, values in _tried_of_each().items()}
    start = Blend(**{**first, **fixed}, shares=shares[0])
    sequences = train_data._dataset.training_sequences()
    chosen, why = start, "as set"
    if model.left_to_validation(config):
        if group.is_main:
            metric, k = rank_metric(config, valid_data)
            instances = _instances(model, valid_data, sequences, fixed, show_progress)
            choice = _Choice(model, sequences, instances, metric, k)
            groups = [varied(names, tried, fixed) for names, tried in _TRIED]
            groups.append([{"shares": each} for each in shares])
            chosen = best_by_groups(start, groups, choice.value_of)
            n = len(choice.instances.target)
            why = f"of {len(choice.values)} settings by {metric}@{k} {choice.values[chosen]:.4f} on {n:,} instances"
        chosen, why = group.from_main((chosen, why))
    _apply(model, sequences, chosen)
    return f"{shown(model.chosen)}, {why}"


def _tried_of_each() -> dict[str, list[float]]:
    return {name: [values[place] for values in tried] for names, tried in _TRIED for place, name in enumerate(names)}


def _apply(model: Any, sequences: tuple[np.ndarray, np.ndarray], chosen: Blend) -> None:
    if model.memory is not None:
        model.memory.learn(*sequences, chosen.numbers)
    model.sharpness.fill_(chosen.sharpness)
    model.shares.copy_(torch.tensor(chosen.shares))


class _Choice:
    """Measures blends on instances.

    Attributes:
        values: of those measured so far.
    """

    def __init__(
        self, model: Any, sequences: tuple[np.ndarray, np.ndarray], instances: Competing, metric: str, k: int
    ) -> None:
        self.model, self.sequences, self.instances, self.metric, self.k = model, sequences, instances, metric, k
        self.values: dict[Blend, float] = {}
        self._memory: Memory | None = None
        self._parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        if model.memory is not None:
            self._memory, self._parts = _like(model.memory), list(_looked_up_together(instances))
        self._known: tuple[Numbers, torch.Tensor, torch.Tensor] | None = None

    def value_of(self, blend: Blend) -> float:
        """Return the mean metric of a blend."""
        if blend not in self.values:
            metrics = rank_metrics(self._ranks(blend).numpy(), [self.k])
            self.values[blend] = float(metrics[f"{self.metric}@{self.k}"].mean())
        return self.values[blend]

    def _ranks(self, blend: Blend) -> torch.Tensor:
        """Return the rank int64 [n] of each target among its competitors, equal ones by number; 0 without a score."""
        rows, items, target = self.instances.rows, self.instances.items, self.instances.target
        parts = self.instances.log_probs
        log_p0 = (parts + torch.tensor(blend.shares).log().unsqueeze(1)).logsumexp(0) if len(parts) > 1 else parts[0]
        scores = log_p0
        if self._memory is not None:
            masses, remaining = self._recalled(self._memory, blend.numbers)
            scores = sharpened(masses, remaining[rows], log_p0, torch.tensor(blend.sharpness))
        own = scores[target]
        before = (scores > own[rows]) | ((scores == own[rows]) & (items < items[target][rows]))
        return torch.where(own.isneginf(), 0, 1 + torch.bincount(rows[before], minlength=len(target)))

    def _recalled(self, memory: Memory, numbers: Numbers) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the masses [P] of all pairs and what remains [n] for each instance."""
        if self._known is None or self._known[0] != numbers:
            memory.learn_again(*self.sequences, numbers)
            masses, remaining = [], []
            for recent, rows, items in self._parts:
                recall = memory.recall(recent)
                masses.append(recall.mass_of(rows, items))
                remaining.append(recall.remaining)
            self._known = numbers, torch.cat(masses), torch.cat(remaining)
        return self._known[1:]


def _looked_up_together(instances: Competing) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yield histories [b, W], and the pairs of these: rows from 0, and items."""
    for first in range(0, len(instances.recent), _TOGETHER):
        recent = instances.recent[first : first + _TOGETHER]
        begin, end = torch.searchsorted(instances.rows, torch.tensor([first, first + len(recent)])).tolist()
        yield recent, instances.rows[begin:end] - first, instances.items[begin:end]


def _like(memory: Memory) -> Memory:
    """Return a memory of the same form that has learnt nothing."""
    like = Memory(memory.n_items, row_limit=memory.row_limit)
    like.alike = memory.alike
    return like


def _instances(
    model: Any, valid_data: Any, sequences: tuple[np.ndarray, np.ndarray], fixed: dict[str, Any], show_progress: bool
) -> Competing:
    """Rank evenly spaced instances of validation by the model alone, and keep what competes in each."""
    memories = []
    if model.memory is not None:
        for numbers in (_NARROW, _WIDE):
            memories.append(_like(model.memory))
            weighted = numbers._replace(text_weight=0.0 if model.memory.alike is None else _TEXT_WEIGHT)
            memories[-1].learn(*sequences, weighted._replace(**{n: fixed[n] for n in Numbers._fields if n in fixed}))
    window = min(model.max_seq_length, max([_WIDE.window, *(memory.numbers.window for memory in memories)]))
    found = []
    for interaction in progress(_chosen_batches(model, valid_data), "choosing", show_progress):
        found += list(_compete(model, memories, window, interaction.to(model.device)))
    counts = torch.tensor([len(each.recent) for each in found])
    first_row, first_pair = counts.cumsum(0) - counts, torch.tensor([0, *(len(each.rows) for each in found)]).cumsum(0)
    return Competing(
        torch.cat([each.recent for each in found]),
        torch.cat([each.rows + first for each, first in zip(found, first_row, strict=True)]),
        torch.cat([each.items for each in found]),
        torch.cat([each.log_probs for each in found], dim=1),
        torch.cat([each.target + first for each, first in zip(found, first_pair, strict=False)]),
    )


def _chosen_batches(model: Any, valid_data: Any) -> Iterator[Any]:
    """Yield the evenly spaced instances that decide, as interactions."""
    n = len(valid_data._dataset)
    kept = torch.zeros(n, dtype=torch.bool)
    kept[torch.linspace(0, n - 1, min(n, _MOST_INSTANCES), dtype=torch.float64).long()] = True
    first = 0
    for interaction, *_ in valid_data:
        rows = kept[first : first + len(interaction)].nonzero().squeeze(1)
        first += len(interaction)
        if len(rows):
            yield interaction[rows]


def _compete(model: Any, memories: Sequence[Memory], window: int, interaction: Any) -> Iterator[Competing]:
    """Yield instances of a batch, in the parts that the model ranks together."""
    with weights_unchanged(model):
        for _, part in model.ranked_together(interaction):
            scorer = model.scorer(model.encode(model.history_tokens(part)))
            wide = recent_places(part[model.ITEM_SEQ], part[model.ITEM_SEQ_LEN], window).cpu()
            targets = part[model.ITEM_ID].cpu()
            found, _ = model.candidates(scorer)
            row = torch.arange(len(targets)).unsqueeze(1)
            pairs = [row.squeeze(1) * model.n_items + targets, (row * model.n_items + found.cpu())[found.cpu() > 0]]
            remembered = [memory.recall(wide).heaviest(_MOST_REMEMBERED) for memory in memories]
            pairs += [recall.rows * model.n_items + recall.items for recall in remembered]
            pair = torch.cat(pairs).unique()
            rows, items = pair // model.n_items, pair % model.n_items
            log_probs = model.part_log_probs(scorer, rows, items).cpu()
            yield Competing(wide, rows, items, log_probs, torch.searchsorted(pair, pairs[0]))
