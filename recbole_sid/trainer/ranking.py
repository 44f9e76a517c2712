"""Evaluation of SID models: by the items that they retrieve, in memory that does not depend on the catalogue."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer

from recbole_sid import compat
from recbole_sid.capabilities import ChecksConfig
from recbole_sid.checkpoint import check_lineage, load_checkpoint, load_weights
from recbole_sid.distributed.group import Group, current_group
from recbole_sid.errors import InputError
from recbole_sid.evaluation.collector import MainEvaluator, RetrievedItemsCollector
from recbole_sid.evaluation.parts import part_of
from recbole_sid.evaluation.retrieved import Retrieved
from recbole_sid.util.attributes import attributes_set


class RankingTrainer(ChecksConfig, Trainer):
    """RecBole's trainer that evaluates what a model retrieves.

    Attributes:
        group: the processes that train and evaluate together.
        lineage: what the training depends on beside its configuration; empty before `fit`.
    """

    def __init__(self, config: Any, model: Any) -> None:
        self.group = current_group()
        with nullcontext() if self.group.is_main else compat.without_tensorboard():
            super().__init__(config, model)
        self.eval_collector = RetrievedItemsCollector(config)
        self.evaluator = MainEvaluator(config, self.eval_collector)
        self.item_tensor = ()  # RecBole would copy all items' features to the device, for models that rank by `predict`
        self.lineage: dict[str, str] = {}

    @torch.no_grad()
    def evaluate(
        self, eval_data: Any, load_best_model: bool = True, model_file: Any = None, show_progress: bool = False
    ) -> Any:
        """Evaluate by RecBole's evaluator, after loading the best weights unless told otherwise.

        Full ranking goes by the model's retrieved items, in memory that does not depend on the catalogue, unless some
        metric needs the score of every item. The processes of a group rank a part of the users each, and all return
        the metrics of all users; against items that are drawn the main one ranks alone.

        Raises:
            InputError: if there is nothing to evaluate on, a metric needs scores that the model does not give, or the
                training data without `fit`.
        """
        if not eval_data:
            raise InputError(
                f"There is nothing to evaluate {self.config['model']} on: eval_args.split="
                f"{self.config['eval_args']['split']} leaves this part empty."
            )
        if load_best_model:
            file = model_file or self.saved_model_file
            self.group.barrier()  # written by the main process
            checkpoint = load_checkpoint(file, self.config["model"], self.device)
            if self.lineage:
                check_lineage(file, checkpoint["lineage"], self.lineage)
            load_weights(self.model, checkpoint["state_dict"], file)
        self._check_metrics(eval_data)
        self._check_weights()
        if isinstance(eval_data, FullSortEvalDataLoader):
            with part_of(eval_data, self.group):
                return super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        result = None
        if self.group.is_main:
            with attributes_set(self.eval_collector, {"group": Group()}):
                result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        return self.group.from_main(result)

    def _check_weights(self) -> None:
        """Raise InputError if the model cannot rank because a weight is not a number, on whatever device it is."""
        broken = [weight.isnan().any() for weight in self.model.parameters() if weight.is_floating_point()]
        if broken and bool(torch.stack(broken).any()):
            raise InputError(
                f"{self.config['model']} has weights that are not numbers (NaN), so nothing can be ranked: its "
                "training diverged; lower learning_rate or set clip_grad_norm."
            )

    def _check_metrics(self, eval_data: Any) -> None:
        """Raise InputError if a configured metric cannot be computed on `eval_data`."""
        uncounted = self.eval_collector.uncounted_metrics()
        if uncounted:
            raise InputError(
                f"{', '.join(uncounted)} needs counts of the training data: call `fit`, or "
                "`trainer.eval_collector.data_collect(train_data)`, before `evaluate`."
            )
        unscored = self.eval_collector.score_metrics
        full = isinstance(eval_data, FullSortEvalDataLoader)
        if full and unscored and not self.model.scores_every_item:
            raise InputError(
                f"{', '.join(unscored)} needs the score of every item: raise full_sort_items "
                f"(now {self.config['full_sort_items']}) to the number of items {eval_data._dataset.item_num - 1}, "
                "or leave it out of metrics."
            )

    def _full_sort_batch_eval(self, batched_data: Any) -> tuple[Any, Any, torch.Tensor, torch.Tensor]:
        """Return a batch of full ranking as RecBole does, with the retrieved items in place of scores if they do."""
        if self.eval_collector.score_metrics:
            return super()._full_sort_batch_eval(batched_data)
        interaction, _, positive_u, positive_i = batched_data
        interaction = interaction.to(self.device)
        rows, items, scores = self.model.retrieve(interaction)
        found = Retrieved(rows, items, scores, (len(interaction), self.tot_item_num))
        return interaction, found, positive_u, positive_i
