"""The hybrid of semantic IDs and items: its loss, the mixture of its heads, and its table of items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_TIGER
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_tries
from hypothesis import strategies as st
from torch.testing import assert_close

from recbole_sid.capabilities import lacks_teacher
from recbole_sid.checkpoint import load_checkpoint, load_weights, save_checkpoint
from recbole_sid.cli import main
from recbole_sid.comparison.job import make_jobs, run_job
from recbole_sid.comparison.plan import make_plan
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.evaluation.runs import find_runs
from recbole_sid.fast.compiled_scorer import is_usable
from recbole_sid.memory import Memory, Numbers
from recbole_sid.model.base import SIDRecommender
from recbole_sid.model.mlp_ranking import MLPRanking
from recbole_sid.nn.item_head import ItemHead, ItemScores
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
@given(seed=st.integers(0, 10_000), share_of_items=st.floats(0.01, 0.99), scale=st.floats(0.1, 5))
def test_exact_is_exact(exact: tuple[Any, Any], seed: int, share_of_items: float, scale: float) -> None:
    """No item outside the answer has more, whichever head it is that knows it."""
    model, rows = exact
    k = model.beam_size
    torch.manual_seed(seed)
    with torch.no_grad():
        model.item_head.table.copy_(torch.randn_like(model.item_head.table) * scale)
    share(model, share_of_items)
    scores = probabilities(model, rows).log()
    row, _, found = model.retrieve(rows)
    expected = scores.topk(k, dim=1).values
    assert_close(found.view(len(rows), k), expected, atol=1e-4, rtol=1e-4)
    assert row.tolist() == sorted(row.tolist())


@pytest.fixture
def crowded(hybrid: Callable[..., Any]) -> tuple[Any, Any]:
    """Return a model of items that share semantic IDs, some more than others, and rows."""
    model, rows, _ = hybrid(decoding="exact", beam_size=10, codebook_sizes=[4, 5], collision="keep")
    return model, rows


@settings_of_tries(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 10_000), share_of_items=st.floats(0.01, 0.99), scale=st.floats(0.1, 5))
def test_exact_is_exact_where_items_share_semantic_ids(
    crowded: tuple[Any, Any], seed: int, share_of_items: float, scale: float
) -> None:
    model, rows = crowded
    model.beam_size = 6
    assert len(model.trie.start(model.trie.n_levels).diff().unique()) > 1
    torch.manual_seed(seed)
    with torch.no_grad():
        model.item_head.table.copy_(torch.randn_like(model.item_head.table) * scale)
    share(model, share_of_items)
    scores = probabilities(model, rows).log()
    _, _, found = model.retrieve(rows)
    expected = scores.topk(model.beam_size, dim=1).values
    assert_close(found.view(len(rows), model.beam_size), expected, atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize("decoding", ["beam", "exact"])
@torch.no_grad()
def test_an_item_head_without_a_say_costs_no_walk_of_the_trie(
    hybrid: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, decoding: str
) -> None:
    """With item_share 0, which validation often chooses, compiled loops rank as the mixture of both heads does."""
    if not is_usable():
        pytest.skip("needs numba")
    model, rows, dataset = hybrid(memory="transitions", decoding=decoding, beam_size=10, item_share=0.0)
    model.memory.learn(*dataset.training_sequences(), Numbers())
    model.shares.copy_(torch.tensor([0.0, 1.0]))
    scorer, recent = model.scorer(model.encode(model.history_tokens(rows))), model.recent(rows)
    slow_items, slow_scores = SIDRecommender.best_after(model, scorer, recent)
    monkeypatch.setattr(SIDRecommender, "best_after", None)
    items, scores = model.best_after(scorer, recent)
    assert_close(scores[:, :5], slow_scores[:, :5], atol=1e-4, rtol=1e-4)
    if decoding == "exact":
        assert_close(scores, slow_scores, atol=1e-4, rtol=1e-4)
        assert torch.equal(items.sort().values, slow_items.sort().values)


def test_checkpoints_with_a_key_of_before_are_read(settings: Callable[..., Any]) -> None:
    run = run_recbole_sid("SIDMLPHybrid", "tiny", config_dict=settings("SIDMLPHybrid", epochs=1))
    content = load_checkpoint(run["model_file"])
    save_checkpoint("before.pth", {**content, "config": {**content["config"], "memory_smoothing": 0.2}})
    _, model, *_ = load_data_and_model("before.pth")
    assert not hasattr(model, "memory_smoothing")


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


@torch.no_grad()
def test_drawn_items_estimate_the_loss_of_all(hybrid: Callable[..., Any]) -> None:
    model, rows, dataset = hybrid(sid_heads=False, item_negatives=4000)
    whole, _, _ = hybrid(sid_heads=False)
    whole.load_state_dict(model.state_dict())
    losses = torch.stack([model(rows) for _ in range(20)])
    assert float(losses.mean()) == pytest.approx(float(whole(rows)), abs=0.01)
    drawn, log_expected = model.item_head.drawn(200_000)
    items, _ = dataset.training_sequences()
    counts = torch.bincount(torch.from_numpy(items), minlength=model.n_items)[model.item_head.items].double()
    found = torch.bincount(drawn, minlength=len(counts)).double()
    assert_close(found, 200_000 * counts / counts.sum(), rtol=0.2, atol=0)
    assert_close(log_expected.double(), (200_000 * counts / counts.sum()).log()[drawn], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_it_may_learn_from_a_teacher(settings: Callable[..., Any], cache: str) -> None:
    teacher = {**SMALL_TIGER, "epochs": 1, "train_batch_size": 32}
    changes = {"alpha": 0.4, "temperature": 2.0, "teacher_config": teacher, "distill_cache": cache, "epochs": 1}
    run = run_recbole_sid("SIDMLPHybrid", "tiny", config_dict=settings("SIDMLPHybrid", **changes))
    assert run["teacher_file"] is not None
    assert load_data_and_model(run["model_file"])[1].teacher is None  # it ranks without
    config = Config("SIDMLPHybrid", "tiny", config_dict=settings("SIDMLPHybrid", **changes, item_loss_weight=0))
    config["teacher_path"] = run["teacher_file"]
    train = data_preparation(config, create_dataset(config))[0]
    trainer = make_trainer(config, train)
    trainer.start_stage(trainer.stages()[0], train)
    model, rows = trainer.model.eval(), next(iter(train))
    with torch.no_grad():
        tokens, codes = model.history_tokens(rows), model.target_codes(rows)
        taught = model.teacher.teach(tokens, codes)[1]
        expected = torch.zeros(())
        for level, own in enumerate(model.target_logits(tokens, codes)):
            p, q = ((logits / 2).softmax(1) for logits in (taught[level], own))
            expected += 0.4 * 4 * (p * (p / q).log()).sum(1).mean() + 0.6 * F.cross_entropy(own, codes[:, level])
        assert_close(trainer.batch_loss(rows), expected, rtol=2e-3, atol=2e-3)  # the cache has half precision
    assert not any(weight.requires_grad for weight in model.teacher.parameters())


def test_without_a_teacher_it_asks_for_none(settings: Callable[..., Any]) -> None:
    config = Config("SIDMLPHybrid", "tiny", config_dict=settings("SIDMLPHybrid"))
    assert not lacks_teacher(config)
    config = Config("SIDMLPHybrid", "tiny", config_dict=settings("SIDMLPHybrid", alpha=0.5))
    assert lacks_teacher(config)
    plan = make_plan("tiny", {"TIGER": {}, "SIDMLPHybrid": {}, "D": {"model": "SIDMLPHybrid", "alpha": 0.5}}, [1])
    assert [entry.teacher for entry in plan.entries] == [None, None, "TIGER"]


def test_its_forms_are_compared_and_analysed(settings: Callable[..., Any], tmp_path: Path) -> None:
    own = settings("SIDMLPHybrid", epochs=1)
    models = {
        "TIGER": settings("TIGER", epochs=1),
        "D": {**own, "model": "SIDMLPHybrid", "memory": "transitions"},
        "K": {**own, "model": "SIDMLPHybrid", "sid_heads": False},
        "distilled": {**own, "model": "SIDMLPHybrid", "alpha": 0.5},
    }
    jobs = make_jobs(make_plan("tiny", models, [1]), tmp_path / "runs")
    for job in jobs:
        run_job(job)
    assert main(["analyze", f"--runs={tmp_path / 'runs'}", "--output=out", "--json=out.json"]) == 0
    assert {run.name for run in find_runs([tmp_path / "runs"])} == {"D", "K", "distilled", "TIGER", "TIGER-constrained"}
    text = Path("out.json").read_text(encoding="utf-8")
    assert all(f'"{name}"' in text for name in ("D", "K", "distilled"))


def test_without_level_heads_nothing_is_said_of_codes(hybrid: Callable[..., Any]) -> None:
    model, rows, _ = hybrid(sid_heads=False)
    tokens = model.history_tokens(rows)
    for ask in (lambda: model.rank(tokens), lambda: model.target_logits(tokens, model.target_codes(rows))):
        with pytest.raises(InputError, match="says nothing of their codes"):
            ask()


@torch.no_grad()
def test_training_may_leave_items_of_histories_out(hybrid: Callable[..., Any]) -> None:
    model, rows, _ = hybrid(history_dropout_prob=0.5)
    assert model._thinned(rows) is rows
    model.train()
    thinned, history = model._thinned(rows)["item_id_list"], rows["item_id_list"]
    last = (rows["item_length"] - 1).unsqueeze(1)
    assert torch.equal(thinned.gather(1, last), history.gather(1, last))
    left = (thinned > 0).sum(1)
    assert ((thinned == history) | (thinned == 0)).all()
    assert 0 < int(left.sum()) < int((history > 0).sum())
    model.eval()
    shorter = {**rows.interaction, "item_id_list": thinned}
    tokens = model.history_tokens(type(rows)(shorter))
    assert ((tokens > 0).sum(1) == 2 + left * model.vocabulary.n_levels).all()


@pytest.mark.parametrize("trains", [True, False])
def test_code_embeddings_start_from_features_and_are_trained_or_not(prepare: Callable[..., Any], trains: bool) -> None:
    config, train, valid, _ = prepare("SIDMLPHybrid", train_code_embeddings=trains, epochs=1)
    trainer = make_trainer(config, train)
    fresh = trainer.model.token_embedding.weight.detach().clone()
    trainer.model.start_from_data(config, train._dataset)
    started = trainer.model.token_embedding.weight.detach().clone()
    assert not torch.equal(fresh, started)
    trainer = make_trainer(config, train)
    trainer.fit(train, valid, saved=False, verbose=False)
    assert torch.equal(trainer.model.token_embedding.weight, started) != trains


def test_its_table_is_known_by_the_items_of_the_artefact(hybrid: Callable[..., Any]) -> None:
    """A dataset that numbers its items otherwise, and has further ones, finds the rows of those that were learnt."""
    model, _, _ = hybrid()
    head, n = model.item_head, model.n_items
    order = torch.randperm(n + 3) + 1
    numbers = torch.full((n + 4,), -1)
    numbers[order[: n - 1]] = head.catalogue[1:]
    numbers[order[n - 1 :]] = torch.arange(4) + n + 5
    other = ItemHead(16, numbers, order[:2].sort().values, torch.ones(2))
    other.load_state_dict(head.state_dict())
    scores = ItemScores(head, torch.randn(5, 16))
    moved = ItemScores(other, scores.query).log_probs()
    assert_close(moved[:, order[: n - 1]], scores.log_probs()[:, 1:])
    assert moved[:, order[n - 1 :]].isneginf().all()


@pytest.mark.parametrize(
    "changes", [{"numbers": [[0, 0]]}, {"numbers": [[-1, 2]]}, {"numbers": [0.0, 1.0]}, {"table": torch.zeros(2, 3)}]
)
def test_a_damaged_table_is_refused(hybrid: Callable[..., Any], changes: dict[str, Any], tmp_path: Path) -> None:
    model, _, _ = hybrid()
    bad = {name: torch.as_tensor(value).squeeze(0) for name, value in changes.items()}
    state = {**model.state_dict(), **{f"item_head.{name}": value for name, value in bad.items()}}
    with pytest.raises(InputError, match="table is not one of items"):
        load_weights(model, state, "x.pth")


@pytest.mark.parametrize("shares", [[0.5, 0.6], [-0.5, 1.5], [torch.nan, 1.0], [torch.inf, 0.0]], ids=str)
def test_damaged_shares_are_refused(hybrid: Callable[..., Any], shares: list[float]) -> None:
    model, _, _ = hybrid()
    with pytest.raises(InputError, match=r"shares (are not of sum 1|holds)"):
        load_weights(model, {**model.state_dict(), "shares": torch.tensor(shares)}, "x.pth")


@torch.no_grad()
def test_the_best_prefixes_may_be_an_index_of_the_item_head(hybrid: Callable[..., Any]) -> None:
    model, rows, _ = hybrid(item_candidates=3, beam_size=10, codebook_sizes=[4, 3], collision="rank")
    whole, _, _ = hybrid(beam_size=10, codebook_sizes=[4, 3], collision="rank")
    tokens = model.history_tokens(rows)
    scorer = model.scorer(model.encode(tokens))
    of_codes = MLPRanking.item_log_probs(model, scorer).exp()
    prefix = model.item_codes[:, 0] * 3 + model.item_codes[:, 1]
    of_prefix = torch.zeros(len(rows), 12).index_add_(1, prefix[1:], of_codes[:, 1:])
    logits = whole.scorer(whole.encode(tokens)).items.log_probs()
    items, scores = scorer.items.best(50)
    for row in range(len(rows)):
        under = [item for item in range(1, model.n_items) if prefix[item] in of_prefix[row].topk(3).indices]
        assert set(items[row].tolist()) - {0} == set(under)
        expected = logits[row] - logits[row, under].logsumexp(0)
        found = scores[row, items[row] > 0]
        assert_close(found, expected[items[row][items[row] > 0]], atol=1e-5, rtol=1e-5)
        assert_close(scorer.items.log_probs()[row], expected, atol=1e-5, rtol=1e-5)
    row, items, scores = model.retrieve(rows)
    every = model.full_sort_predict(rows).view(len(rows), -1)
    assert_close(every[row, items], scores, atol=1e-5, rtol=1e-5)
    assert_close(model.predict(rows), every.gather(1, rows["item_id"].unsqueeze(1)).squeeze(1), atol=1e-5, rtol=1e-5)
    assert torch.bincount(row).tolist() == [10] * len(rows)


@pytest.mark.skipif(not is_usable(), reason="numba is not installed")
@pytest.mark.parametrize("remembers", [False, True])
@pytest.mark.parametrize("item_candidates", [None, 2, 5, 12])
@torch.no_grad()
def test_compiled_loops_rank_as_torch_does(
    hybrid: Callable[..., Any], item_candidates: int | None, remembers: bool
) -> None:
    model, rows, _ = hybrid(item_candidates=item_candidates, beam_size=10, codebook_sizes=[4, 3], collision="rank")
    model.item_head.table.mul_(30)  # items stand out
    if remembers:
        rng = np.random.default_rng(0)
        model.memory = Memory(model.n_items)
        numbers = Numbers(2, 0.5, 3, 0.5, 3.0)
        model.memory.learn(rng.integers(1, model.n_items, 30), np.arange(0, 31, 5), numbers)
        model.sharpness.fill_(0.5)
    found = {}
    for compiled in (False, True):
        model.compiled = compiled
        row, items, scores = model.retrieve(rows)
        n = torch.bincount(row, minlength=len(rows))
        found[compiled] = n, items, scores
    assert torch.equal(found[True][0], found[False][0])
    assert_close(found[True][2], found[False][2], atol=1e-4, rtol=1e-4)
    assert (found[True][1] == found[False][1]).double().mean() > 0.95  # but for ties


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
        ({"item_share": 0.4, "item_head": False}, "item_share=0.4 needs item_head and sid_heads"),
        ({"item_share": 0.4, "sid_heads": False}, "item_share=0.4 needs item_head and sid_heads"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": 0.5, "sid_heads": False}, "distils into heads"),
        ({"teacher_path": "teacher.pth"}, "With alpha=0 nothing is learnt from teacher_path"),
        ({"alpha": 0.5, "teacher_config": {"d_modl": 8}}, "Unknown configuration key 'd_modl'"),
        ({"item_negatives": 5, "item_head": False}, "item_negatives=5 is of the item head"),
        ({"item_candidates": 5, "sid_heads": False}, "needs sid_heads"),
        ({"item_candidates": 5, "item_head": False}, "item_candidates=5 is of the item head"),
        ({"item_negatives": 0}, "item_negatives"),
        ({"item_loss_weight": -1}, "item_loss_weight"),
        ({"history_dropout_prob": 1.0}, "history_dropout_prob"),
        ({"schedule_epochs": 0}, "schedule_epochs"),
    ):
        with pytest.raises(InputError, match=message):
            prepare("SIDMLPHybrid", **changes)
