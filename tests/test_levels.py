"""The difficulty of levels, against sums that other code gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recbole_sid.evaluation.levels import level_difficulty
from recbole_sid.evaluation.retrieved import Retrieved
from recbole_sid.quick_start import make_trainer


@pytest.fixture(params=["beam of 2", "beam of all"])
def measured(request: pytest.FixtureRequest, prepare: Callable[..., Any]) -> tuple[Any, Any, list[dict[str, Any]]]:
    """A barely trained model, its test loader, and the rows to check."""
    config, train, _, test = prepare("TIGER", epochs=2)
    trainer = make_trainer(config, train)
    trainer.fit(train)
    model = trainer.model
    model.beam_size = 2 if request.param == "beam of 2" else 100
    return model, test, level_difficulty(model, test)


def test_levels_add_up_to_the_target(measured: tuple[Any, Any, list[dict[str, Any]]]) -> None:
    model, test, rows = measured
    log_probs, kept, hits, children = [], [], [], []
    all_codes = model.item_codes[1:].numpy()
    for interaction, _, _, positive_i in test:
        interaction[model.ITEM_ID] = positive_i
        with torch.no_grad():
            log_probs += model.predict(interaction).tolist()
            codes = model.item_codes[positive_i]
            logits = model.target_logits(model.history_tokens(interaction), codes)
        found = Retrieved(*model.retrieve(interaction), (len(interaction), model.n_items))
        kept += (found.top_lists(100) == positive_i.unsqueeze(1)).any(1).tolist()
        for row, true in enumerate(codes.numpy()):
            below = [np.unique(all_codes[(all_codes[:, :t] == true[:t]).all(1), t]) for t in range(3)]
            children.append([len(valid) for valid in below])
            hits.append([valid[logits[t][row].numpy()[valid].argmax()] == true[t] for t, valid in enumerate(below)])
    assert [row["level"] for row in rows] == [1, 2, 3]
    assert sum(row["cross_entropy"] for row in rows) == pytest.approx(-np.mean(log_probs), rel=1e-5)
    assert [row["children"] for row in rows] == pytest.approx(np.mean(children, axis=0))
    assert [row["only_child"] for row in rows] == pytest.approx((np.array(children) == 1).mean(0))
    assert [row["accuracy"] for row in rows] == pytest.approx(np.mean(hits, axis=0))
    assert all(row["cross_entropy_all"] >= row["cross_entropy"] for row in rows)
    assert all(row["accuracy_all"] <= row["accuracy"] for row in rows)
    in_beam = [row["in_beam"] for row in rows]
    assert in_beam == sorted(in_beam, reverse=True)
    assert in_beam[-1] == pytest.approx(np.mean(kept))
