"""The form of RecBole's sequential models, such as SASRec: their scores of all items as an ONNX graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_sid.errors import InputError
from recbole_sid.exporting.forms import Form
from recbole_sid.exporting.onnx import onnx_bytes, require_packages
from recbole_sid.exporting.program import recorded_scores
from recbole_sid.serving.engines.onnx_scores import GRAPH, ScoreEngine

# Largest difference of a score, relative to the largest of its history.
_TOLERANCE = 1e-4
_ROWS, _BATCH = 256, 50  # another batch than it is recorded with


class ScoresOfAll(nn.Module):
    """A model's scores of all items after histories int64 [B, max_history], 0 behind the last item: [B, n_items]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.fields = model, (model.ITEM_SEQ, model.ITEM_SEQ_LEN)

    def forward(self, histories: torch.Tensor) -> torch.Tensor:
        """Return them."""
        lengths = (histories > 0).sum(1)
        found = self.model.full_sort_predict(dict(zip(self.fields, (histories, lengths), strict=True)))
        return found.view(histories.shape[0], self.model.n_items).float()


def form_of_scores(model: Any, config: Any, dataset: Any) -> Form:
    """Return the form of one of RecBole's sequential models, checked on training histories.

    Raises:
        InputError: if it reads more than a history of items, or cannot be recorded.
    """
    name = type(model).__name__
    if type(model).__module__.startswith("recbole_sid."):
        raise InputError(f"{name} cannot be exported: export the models that it is made of.")
    require_packages()
    model = model.eval()
    rows = dataset[torch.linspace(0, len(dataset) - 1, min(_ROWS, len(dataset)), dtype=torch.float64).long()]
    histories = rows[model.ITEM_SEQ]
    settings = {
        "n_items": int(model.n_items),
        "max_history": int(model.max_seq_length),
        "beam_size": max(int(k) for k in config["topk"]),
    }
    scores_of_all = ScoresOfAll(model)
    with torch.no_grad():
        expected = model.full_sort_predict(rows).view(len(rows), -1)
        try:
            scores_of_all(histories)
        except KeyError as error:
            raise InputError(f"{name} cannot be exported: it reads {error} beside the history of items.") from None
    program = recorded_scores(scores_of_all, settings["max_history"])
    graph = onnx_bytes(program, ["histories"], ["scores"], {"model": name, **settings})
    run = ScoreEngine({GRAPH: np.frombuffer(graph, np.uint8)}, settings).run
    found = torch.cat([torch.from_numpy(run(part.numpy())) for part in histories.split(_BATCH)])
    apart = ((expected - found).abs() / expected.abs().amax(1, keepdim=True).clamp(min=1))[:, 1:].max()
    if not apart <= _TOLERANCE:
        raise InputError(
            f"{name} cannot be exported: its graph gives other scores than the model, by up to {apart:.2g}."
        )
    return Form("onnx_scores", {}, settings, {GRAPH: graph})
