"""The hybrid of semantic IDs and items: its loss, the mixture of its heads, and its table of items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_tries
from hypothesis import strategies as st
from torch.testing import assert_close

from recbole_sid.checkpoint import load_checkpoint
from recbole_sid.errors import InputError
from recbole_sid.model.mlp_ranking import MLPRanking
from recbole_sid.quick_start import load_data_and_model, make_trainer, run_recbole_sid
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


def share(model: Any, of_items: float) -> None:
    model.shares.copy_(torch.tensor([of_items, 1 - of_items]))


def test_the_mixture_of_both_heads_is_a_distribution(hybrid: Callable[..., Any]) -> None:
    model, rows, _ = hybrid()
    assert_close(model.shares, torch.tensor([0.35, 0.65]))  # until they are chosen
    found = probabilities(model, rows)
    assert not found[:, 0].any()
    assert_close(found.sum(1), torch.ones(len(rows)), atol=1e-5, rtol=0)
    parts = {}
    for value in (0.0, 1.0):
        share(model, value)
        parts[value] = probabilities(model, rows)
    assert_close(found, 0.35 * parts[1.0] + 0.65 * parts[0.0], atol=1e-6, rtol=1e-5)
    scorer = model.scorer(model.encode(model.history_tokens(rows)))
    assert_close(parts[0.0], MLPRanking.item_log_probs(model, scorer).exp(), atol=1e-7, rtol=1e-5)
    assert_close(parts[1.0], scorer.items.log_probs().exp(), atol=1e-7, rtol=1e-5)


def test_a_head_may_be_left_out(hybrid: Callable[..., Any]) -> None:
    both, rows, _ = hybrid()
    items, _, _ = hybrid(sid_heads=False)
    codes, _, _ = hybrid(item_head=False)
    assert (items.parts, codes.parts, both.parts) == (("items",), ("semantic IDs",), ("items", "semantic IDs"))
    assert not [name for name, _ in items.named_parameters() if "heads" in name]
    assert not [name for name, _ in codes.named_parameters() if "item_head" in name]
    state = {name: value for name, value in both.state_dict().items() if name != "shares"}
    items.load_state_dict({name: value for name, value in state.items() if "decoder.heads" not in name})
    codes.load_state_dict({name: value for name, value in state.items() if "item_head" not in name})
    with torch.no_grad():
        assert float(items(rows)) + float(codes(rows)) == pytest.approx(float(both(rows)), rel=1e-5)
    for alone, of_items in ((items, 1.0), (codes, 0.0)):
        share(both, of_items)
        assert_close(probabilities(alone, rows), probabilities(both, rows))


@pytest.mark.parametrize("decoding", ["beam", "exact", "full"])
@pytest.mark.parametrize(
    "changes", [{}, {"share": 0.0}, {"share": 1.0}, {"sid_heads": False}, {"item_head": False}], ids=str
)
@pytest.mark.parametrize("k", [10, 29])
@torch.no_grad()
def test_what_is_retrieved_is_the_best_of_the_mixture(
    hybrid: Callable[..., Any], changes: dict[str, Any], decoding: str, k: int
) -> None:
    settings = {key: value for key, value in changes.items() if key != "share"}
    model, rows, _ = hybrid(beam_size=k, decoding=decoding, **settings)
    if "share" in changes:
        share(model, changes["share"])
    scores = probabilities(model, rows).log()
    row, items, found = model.retrieve(rows)
    for number in range(len(rows)):
        mine = items[row == number]
        assert len(set(mine.tolist())) == len(mine) == k
        assert_close(scores[number][mine], found[row == number], atol=1e-5, rtol=1e-5)
        if decoding != "beam" or k == 29:  # else the best of what a beam finds
            assert_close(found[row == number], scores[number].topk(k).values, atol=1e-5, rtol=1e-5)
    for item in (3, 17):
        rows["item_id"][:] = item
        assert_close(model.predict(rows), scores[:, item], atol=1e-5, rtol=1e-5)


@pytest.fixture
def exact(hybrid: Callable[..., Any]) -> tuple[Any, Any]:
    model, rows, _ = hybrid(decoding="exact", beam_size=10)
    return model, rows


@settings_of_tries(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10_000), share_of_items=st.floats(0.01, 0.99), scale=st.floats(0.1, 5), k=st.integers(10, 20)
)
def test_exact_is_exact(hybrid: Callable[..., Any], seed: int, share_of_items: float, scale: float, k: int) -> None:
    """No item outside the answer has more, whichever head it is that knows it."""
    model, rows, _ = hybrid(decoding="exact", beam_size=k)
    torch.manual_seed(seed)
    with torch.no_grad():
        model.item_head.table.copy_(torch.randn_like(model.item_head.table) * scale)
    share(model, share_of_items)
    scores = probabilities(model, rows).log()
    row, _, found = model.retrieve(rows)
    expected = scores.topk(k, dim=1).values
    assert_close(found.view(len(rows), k), expected, atol=1e-5, rtol=1e-5)
    assert row.tolist() == sorted(row.tolist())


def test_a_beam_finds_what_either_head_ranks_high(hybrid: Callable[..., Any]) -> None:
    model, rows, _ = hybrid(beam_size=10)
    scorer = model.scorer(model.encode(model.history_tokens(rows)))
    with torch.no_grad():
        items, scores = model.candidates(scorer)
    assert_close(scores, probabilities(model, rows).log().gather(1, items).masked_fill(items == 0, -torch.inf))
    best_of_items = scorer.items.log_probs().topk(10).indices
    best_of_codes = MLPRanking.candidates(model, scorer)[0]
    for row, found in enumerate(items.tolist()):
        assert set(found) - {0} == {*best_of_items[row].tolist(), *best_of_codes[row].tolist()}


def test_the_share_is_chosen_after_training_and_kept(prepare: Callable[..., Any], settings: Callable[..., Any]) -> None:
    run = run_recbole_sid("SIDMLPHybrid", "tiny", config_dict=settings("SIDMLPHybrid"))
    checkpoint = load_checkpoint(run["model_file"])
    _, model, _, _, _, test_data = load_data_and_model(run["model_file"])
    assert checkpoint["chosen"] == {"item_share": pytest.approx(float(model.shares[0]))}
    found = model.retrieve(next(iter(test_data))[0])
    _, again, *_ = load_data_and_model(run["model_file"])
    for mine, theirs in zip(found, again.retrieve(next(iter(test_data))[0]), strict=True):
        assert torch.equal(mine, theirs)
    config, train, valid, _ = prepare("SIDMLPHybrid", item_share=0.8, resume=True)
    trainer = make_trainer(config, train)
    trainer.fit(train, valid)
    assert trainer.train_loss_dict == {}  # that of before
    assert_close(trainer.model.shares, torch.tensor([0.8, 0.2]))
    assert torch.equal(trainer.model.item_head.table, model.item_head.table)


@pytest.mark.parametrize("changes", [{}, {"sid_heads": False}, {"item_head": False}], ids=str)
def test_a_memory_beside_it(prepare: Callable[..., Any], changes: dict[str, Any]) -> None:
    config, train, valid, test = prepare("SIDMLPHybrid", memory="transitions", beam_size=29, **changes)
    trainer = make_trainer(config, train)
    trainer.fit(train, valid, saved=False, verbose=False)
    model, rows = trainer.model.eval(), next(iter(test))[0]
    every = model.full_sort_predict(rows).view(len(rows), -1)
    row, items, found = model.retrieve(rows)
    for number in range(len(rows)):
        assert_close(found[row == number], every[number].topk(29).values, atol=1e-4, rtol=1e-4)
        assert_close(every[number][items[row == number]], found[row == number], atol=1e-4, rtol=1e-4)


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
