"""The hybrid of semantic IDs and items: its loss, the mixture of its heads, and its table of items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from recbole_sid.errors import InputError
from recbole_sid.registry import get_model


@pytest.fixture
def hybrid(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``hybrid(**changes) -> untrained model in eval mode, rows of its training part, training dataset``."""

    def make(**changes: Any) -> tuple[Any, Any, Any]:
        config, train, _, _ = prepare("SIDMLPHybrid", **changes)
        torch.manual_seed(0)
        model = get_model("SIDMLPHybrid")(config, train._dataset).eval()
        with torch.no_grad():
            for parameter in model.parameters():  # fresh layers hardly change what they are given
                parameter.add_(torch.randn_like(parameter) * 0.1)
        return model, train._dataset[torch.arange(0, len(train._dataset), 7)], train._dataset

    return make


def probabilities(model: Any, rows: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.item_log_probs(model.scorer(model.encode(model.history_tokens(rows)))).exp()


@pytest.mark.parametrize("weight", [1.0, 0.3])
@torch.no_grad()
def test_the_loss_is_the_cross_entropy_of_all_heads(hybrid: Callable[..., Any], weight: float) -> None:
    model, rows, _ = hybrid(item_loss_weight=weight)
    encoded = model.encode_padded(model.history_tokens(rows))
    context = model.decoder.readout(*encoded)
    n_items = encoded.mask.sum(1)
    expected = 0.0
    for row in range(len(rows)):
        last = encoded.states[row, n_items[row] - 1]
        query = model.item_head.norm(last + model.item_head.context.weight @ context[row, 0])
        scores = {
            item: float(query @ model.item_head.table[place])
            for place, item in enumerate(model.item_head.items.tolist())
        }
        total = sum(torch.tensor(score).double().exp() for score in scores.values()).log()
        expected += weight * float(total - scores[int(rows["item_id"][row])])
        codes = model.item_codes[rows["item_id"][row]]
        x = context[row, 0]
        for level, head in enumerate(model.decoder.heads):
            expected -= float(head(x).log_softmax(-1)[codes[level]])
            token = model.vocabulary.level_offsets[level] + codes[level]
            x = torch.cat([x, model.token_embedding.weight[token]])
    assert float(model(rows)) == pytest.approx(expected / len(rows), rel=1e-4)


def test_the_mixture_of_both_heads_is_a_distribution(hybrid: Callable[..., Any]) -> None:
    model, rows, _ = hybrid(item_share=0.35)
    found = probabilities(model, rows)
    assert not found[:, 0].any()
    assert_close(found.sum(1), torch.ones(len(rows)), atol=1e-5, rtol=0)
    parts = {}
    for share in (0.0, 1.0):
        model.item_share = share
        parts[share] = probabilities(model, rows)
    assert_close(found, 0.35 * parts[1.0] + 0.65 * parts[0.0], atol=1e-6, rtol=1e-5)
    of_codes = super(type(model), model).item_log_probs(model.scorer(model.encode(model.history_tokens(rows))))
    assert_close(parts[0.0], of_codes.exp(), atol=1e-7, rtol=1e-5)


def test_a_head_may_be_left_out(hybrid: Callable[..., Any]) -> None:
    both, rows, _ = hybrid(item_share=1.0)
    items, _, _ = hybrid(sid_heads=False)
    codes, _, _ = hybrid(item_head=False)
    assert not [name for name, _ in items.named_parameters() if "heads" in name]
    assert not [name for name, _ in codes.named_parameters() if "item_head" in name]
    items.load_state_dict({name: value for name, value in both.state_dict().items() if "decoder.heads" not in name})
    codes.load_state_dict({name: value for name, value in both.state_dict().items() if "item_head" not in name})
    assert_close(probabilities(items, rows), probabilities(both, rows))
    both.item_share = 0.0
    assert_close(probabilities(codes, rows), probabilities(both, rows))
    assert float(items(rows)) + float(codes(rows)) == pytest.approx(float(both(rows)), rel=1e-5)


@pytest.mark.parametrize("changes", [{}, {"item_share": 1.0}, {"sid_heads": False}, {"item_head": False}])
@torch.no_grad()
def test_what_is_retrieved_is_the_best_of_the_mixture(hybrid: Callable[..., Any], changes: dict[str, Any]) -> None:
    model, rows, _ = hybrid(beam_size=12, **changes)
    scores = probabilities(model, rows).log()
    row, items, found = model.retrieve(rows)
    for number in range(len(rows)):
        best = scores[number].topk(12)
        assert_close(found[row == number], best.values)
        assert_close(scores[number][items[row == number]], best.values)
    for item in (3, 17):
        rows["item_id"][:] = item
        assert_close(model.predict(rows), scores[:, item])


def test_states_without_padding_are_the_same(hybrid: Callable[..., Any]) -> None:
    model, rows, _ = hybrid()
    tokens = model.history_tokens(rows)
    padded = model.encode_padded(tokens)
    with torch.no_grad():
        packed = model.encode(tokens)
    assert_close(packed.padded(), padded.states, atol=1e-5, rtol=1e-5)


def test_bad_values_are_refused(prepare: Callable[..., Any]) -> None:
    for changes, message in (
        ({"item_head": False, "sid_heads": False}, "leave nothing to rank by"),
        ({"item_share": 1.5}, "item_share"),
        ({"item_loss_weight": -1}, "item_loss_weight"),
        ({"history_dropout_prob": 1.0}, "history_dropout_prob"),
        ({"schedule_epochs": 0}, "schedule_epochs"),
    ):
        with pytest.raises(InputError, match=message):
            prepare("SIDMLPHybrid", **changes)
