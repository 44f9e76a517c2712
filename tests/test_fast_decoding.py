"""Factorised and compiled heads against the heads themselves; never stale; batches as rows alone."""

from __future__ import annotations

import importlib
import itertools
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoding import catalogues
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_sid.decoding import DECODERS
from recbole_sid.decoding.children import _padded, _ragged
from recbole_sid.decoding.full import leaf_log_probs
from recbole_sid.decoding.trie import Trie
from recbole_sid.errors import InputError
from recbole_sid.fast import captured
from recbole_sid.fast.compiled_scorer import CompiledScorer, compiled_heads, compiled_prefixes, is_usable
from recbole_sid.fast.factorised import FactorisedHeads, FactorisedScorer
from recbole_sid.fast.prepared import Prepared
from recbole_sid.nn.packing import Packed, Packing
from recbole_sid.nn.readout import SIDMLPDecoder
from recbole_sid.nn.vocabulary import TokenVocabulary
from recbole_sid.registry import get_model

WIDTH, USERS = 6, 3


def small_decoder(sizes: tuple[int, ...], head_layers: int = 1, seed: int = 0) -> tuple[SIDMLPDecoder, nn.Embedding]:
    """Return heads with logits of some spread, and token embeddings."""
    torch.manual_seed(seed)
    decoder = SIDMLPDecoder(WIDTH, sizes, 8, 2, 12, 16, head_layers, 0.0).eval()
    for name, weight in decoder.named_parameters():
        if "norm" in name or weight.ndim == 1:
            nn.init.normal_(weight, mean=1.0, std=0.5)
        elif name.startswith("heads"):
            nn.init.normal_(weight, std=1.0)
    return decoder, nn.Embedding(TokenVocabulary(sizes).size, WIDTH)


def true_leaf_log_probs(
    decoder: SIDMLPDecoder, embedding: nn.Embedding, context: torch.Tensor, codes: np.ndarray
) -> dict[tuple[int, ...], torch.Tensor]:
    """Return the log-probabilities [B] of every semantic ID, by the heads on concatenated inputs."""
    vocabulary = TokenVocabulary([head[-1].out_features for head in decoder.heads])
    known = {tuple(row) for row in codes.tolist()}
    result = {}
    for leaf in sorted(known):
        total = torch.zeros(len(context))
        for level in range(len(leaf)):
            children = sorted({row[level] for row in known if row[:level] == leaf[:level]})
            tokens = [code + vocabulary.level_offsets[place] for place, code in enumerate(leaf[:level])]
            prefix = embedding(torch.tensor(tokens, dtype=torch.int64)).flatten().expand(len(context), -1)
            logits = decoder.heads[level](torch.cat([context[:, 0], prefix], dim=1))[:, children]
            total += logits.log_softmax(-1)[:, children.index(leaf[level])]
        result[leaf] = total
    return result


def scorers(
    decoder: SIDMLPDecoder, embedding: nn.Embedding, trie: Trie, context: torch.Tensor
) -> dict[str, FactorisedScorer]:
    vocabulary = TokenVocabulary(trie.codebook_sizes)
    heads = FactorisedHeads.of(decoder, embedding.weight, vocabulary.level_offsets)
    parts = heads.user_parts(context)
    found = {"torch": FactorisedScorer(heads, parts)}
    if len(heads.rest[0]) == 1:
        prefixes = compiled_prefixes(trie)
        found["compiled"] = CompiledScorer(heads, parts, trie, compiled_heads(heads, prefixes), prefixes)
    return found


@given(catalogues(), st.integers(1, 30), st.integers(0, 3), st.sampled_from([1, 2]), st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=60)
@torch.no_grad()
def test_decoders_equal_the_heads_on_every_semantic_id(
    catalogue: tuple[np.ndarray, tuple[int, ...], np.ndarray], k: int, seed: int, head_layers: int, n_threads: int
) -> None:
    codes, sizes, items = catalogue
    decoder, embedding = small_decoder(sizes, head_layers, seed)
    context = torch.randn(USERS, 1, WIDTH)
    truth = true_leaf_log_probs(decoder, embedding, context, codes)
    trie = Trie(codes, sizes, items)
    expected = torch.stack([truth[leaf] for leaf in sorted(truth)], dim=1)
    best = expected.topk(min(k, expected.shape[1]), dim=1).values
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        for name, scorer in scorers(decoder, embedding, trie, context).items():
            every = scorer.leaf_log_probs() if name == "compiled" else leaf_log_probs(scorer, trie)
            assert_close(every, expected, atol=1e-4, rtol=1e-5)
            for decoding in DECODERS:
                if name == "compiled":
                    leaves, scores = scorer.search(decoding, k)
                else:
                    leaves, scores = DECODERS[decoding](scorer, trie, k)
                found = leaves >= 0
                assert_close(scores[found], expected.gather(1, leaves.clamp(min=0))[found], atol=1e-4, rtol=1e-5)
                assert all(len(set(row)) == len(row) for row in leaves.tolist())
                assert (scores.diff(dim=1) <= 0).all()
                if decoding != "beam" or k >= expected.shape[1]:
                    assert_close(scores, best, atol=1e-4, rtol=1e-5)
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def test_compiled_and_torch_beams_are_the_same() -> None:
    sizes = (20, 15, 10, 4)
    codes = np.random.default_rng(1).integers(0, sizes, (400, 4))
    codes[:, 1] = codes[:, 1] ** 2 // 15  # unequal numbers of children
    trie = Trie(codes, sizes)
    decoder, embedding = small_decoder(sizes)
    both = scorers(decoder, embedding, trie, torch.randn(37, 1, WIDTH))
    for k in (1, 5, 12, 50):
        for decoding in DECODERS:
            leaves, scores = both["compiled"].search(decoding, k)
            expected = DECODERS[decoding](both["torch"], trie, k)
            assert_close(scores, expected[1], atol=1e-4, rtol=1e-5)
            assert (leaves == expected[0]).float().mean() > 0.99  # neighbours within rounding may swap
    beam, exact = both["compiled"].search("beam", 5)[1], both["compiled"].search("exact", 5)[1]
    assert (exact >= beam - 1e-4).all()
    assert (exact > beam + 1e-4).any()


@pytest.mark.parametrize("normaliser", ["children", "codes"])
@torch.no_grad()
def test_static_shapes_give_the_same_children(normaliser: str) -> None:
    sizes = (5, 4, 3)
    codes = np.random.default_rng(2).integers(0, sizes, (25, 3))
    trie = Trie(codes, sizes)
    decoder, embedding = small_decoder(sizes)
    scorer = scorers(decoder, embedding, trie, torch.randn(USERS, 1, WIDTH))["torch"]
    nodes = torch.tensor([[0, 3, -1, 1], [2, -1, -1, 0], [1, 2, 3, 0]])
    codes_of = trie.code(0)[nodes.clamp(min=0)].long()
    state = scorer.extend(scorer.start(), torch.zeros_like(nodes), codes_of)
    start = torch.randn(nodes.shape).masked_fill(nodes < 0, -torch.inf)
    found = []
    for step in (_padded, _ragged):
        best = step(scorer, trie, 1, state, nodes, start, normaliser).best(1000)
        found.append(
            [
                {
                    (node, parent): pytest.approx(score, abs=1e-4)
                    for node, parent, score in zip(*(values[user].tolist() for values in best), strict=True)
                    if score > -math.inf
                }
                for user in range(USERS)
            ]
        )
    assert all(found[0])
    assert found[0] == found[1]


@pytest.mark.parametrize("per_level", [False, True])
@pytest.mark.parametrize("from_last", [False, True])
@torch.no_grad()
def test_the_readout_without_padding_equals_the_readout(per_level: bool, from_last: bool) -> None:
    torch.manual_seed(0)
    readout = SIDMLPDecoder(WIDTH, (3, 3), 8, 2, 12, 16, 1, 0.0, per_level, from_last).eval().readout
    lengths = torch.tensor([4, 1, 7, 4, 2, 7])
    mask = torch.arange(9) < lengths.unsqueeze(1)
    states = torch.randn(6, 9, WIDTH)
    packing = Packing.of(mask)
    packed = readout.packed(Packed(states.flatten(0, 1)[packing.index], packing))
    assert_close(packed, readout(states, mask))
    readout.q_proj.weight.mul_(2)
    assert_close(readout.packed(Packed(states.flatten(0, 1)[packing.index], packing)), readout(states, mask))


QUERIES = {"query_per_level": True, "query_from_last": True}
STUDENTS = [
    ("SIDMLP", {}),
    ("SIDMLP", QUERIES),
    ("SIDMLPPlusPlus", {}),
    ("SIDMLPPlusPlus", {"encoder": "item"}),
    ("SIDMLPPlusPlus", {"encoder": "item", **QUERIES}),
]
MODELS = [("TIGER", {}), ("TIGER", {"constrained": False}), *STUDENTS]


def tiny_model(prepare: Callable[..., Any], name: str, **changes: Any) -> tuple[Any, Any, Any]:
    config, train, _, test = prepare(name, **changes)
    torch.manual_seed(0)
    return get_model(name)(config, train._dataset).eval(), next(iter(train)), next(iter(test))[0]


def ranking(model: Any, rows: Any) -> tuple[list[list[int]], torch.Tensor]:
    row, item, score = model.retrieve(rows)
    order = torch.argsort(row, stable=True)
    return [item[order][row[order] == user].tolist() for user in range(len(rows))], score[order]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("name", "changes"), STUDENTS)
def test_rankings_are_never_of_old_weights(
    prepare: Callable[..., Any], name: str, changes: dict[str, Any], compiled: bool
) -> None:
    model, batch, rows = tiny_model(prepare, name, compiled=compiled, beam_size=30, **changes)
    model.start_stage(model.stages[-1])
    before = ranking(model, rows)

    def expect_fresh() -> None:
        fresh = tiny_model(prepare, name, compiled=compiled, beam_size=30, **changes)[0]
        fresh.load_state_dict(model.state_dict())
        items, scores = ranking(model, rows)
        expected_items, expected_scores = ranking(fresh, rows)
        assert items == expected_items
        assert_close(scores, expected_scores)  # the last bits depend on where the weights lie in memory
        assert not torch.allclose(scores, before[1], atol=1e-3)

    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    tokens = model.history_tokens(batch)
    logits = model.target_logits(tokens, model.target_codes(batch))
    sum(part.square().sum() for part in logits).backward()
    optimizer.step()
    expect_fresh()  # without leaving eval mode
    model.train()
    with torch.no_grad():
        for weight in model.decoder.parameters():
            weight.data.mul_(1.5)  # unseen by version counters
    model.eval()
    expect_fresh()
    other = {key: value + 0.1 * torch.randn_like(value) for key, value in model.state_dict().items()}
    model.load_state_dict(other)
    expect_fresh()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("name", "changes"), [("TIGER", {}), STUDENTS[0], STUDENTS[2], STUDENTS[3]])
def test_evaluating_the_same_weights_again_builds_no_form(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any], compiled: bool
) -> None:
    own = {} if name == "TIGER" else {"compiled": compiled}
    model, _, rows = tiny_model(prepare, name, **own, **changes)
    prepared = [module for module in model.modules() if isinstance(module, Prepared)]
    built: list[Any] = []
    for module in prepared:
        build = module._build
        monkeypatch.setattr(module, "_build", lambda owner, build=build: (built.append(build), build(owner))[1])

    def evaluate() -> None:
        model.eval()  # as RecBole's `evaluate` does
        with torch.no_grad():
            model.retrieve(rows)
            model.full_sort_predict(rows)
            model.retrieve(rows[:1])
            model.scorer(model.encode(model.history_tokens(rows)))

    evaluate()
    assert built
    assert len(built) == len(set(built))
    first = len(built)
    evaluate()
    assert len(built) == first
    model.train()
    evaluate()
    assert len(built) == 2 * first


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(("name", "changes"), MODELS)
@pytest.mark.parametrize("decoding", list(DECODERS))
def test_a_batch_of_mixed_lengths_ranks_as_its_rows_alone(
    prepare: Callable[..., Any], name: str, changes: dict[str, Any], decoding: str, compiled: bool
) -> None:
    own = {} if name == "TIGER" else {"compiled": compiled}
    model, _, rows = tiny_model(prepare, name, decoding=decoding, **own, **changes)
    assert rows["item_length"].unique().numel() > 3
    items, scores = ranking(model, rows)
    again_items, again_scores = ranking(model, rows)
    assert items == again_items
    assert_close(scores, again_scores)
    alone = [ranking(model, rows[user : user + 1]) for user in range(len(rows))]
    assert items == [own_items[0] for own_items, _ in alone]
    assert_close(scores, torch.cat([own_scores for _, own_scores in alone]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "changes"), STUDENTS)
def test_ranking_leaves_gradients_as_they_are(prepare: Callable[..., Any], name: str, changes: dict[str, Any]) -> None:
    gradients = []
    for ranks in (False, True):
        model, batch, rows = tiny_model(prepare, name, dropout_prob=0.0, **changes)
        model.start_stage(model.stages[-1])
        if ranks:
            with torch.inference_mode():
                model.retrieve(rows)
            model.full_sort_predict(rows)
        tokens = model.history_tokens(batch)
        context = model.decoder.readout(*model.encode_padded(tokens))
        model.decoder(context, model.embed_prefix(model.target_codes(batch)))[0].square().sum().backward()
        gradients.append({key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(value.abs().sum() > 0 for value in gradients[0].values())
    for key, value in gradients[0].items():
        assert torch.equal(value, gradients[1][key])


def test_several_threads_search_a_batch_as_one_does(prepare: Callable[..., Any]) -> None:
    model, _, rows = tiny_model(prepare, "SIDMLP")
    before = torch.get_num_threads()
    results = []
    try:
        for n_threads in (1, 2, 5):
            torch.set_num_threads(n_threads)
            results.append(ranking(model, rows))
    finally:
        torch.set_num_threads(before)
    for (items, scores), (other_items, other_scores) in itertools.pairwise(results):
        assert items == other_items
        assert_close(scores, other_scores)


class NoDataDependence(TorchDispatchMode):
    """Fails on operations whose result shapes or host values depend on data: no CUDA graph can hold them."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "bincount", "repeat_interleave.Tensor")

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(name in str(function) for name in self.FORBIDDEN), function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("name", "changes"), [STUDENTS[0], STUDENTS[1], STUDENTS[3]])
def test_beam_search_can_be_captured(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, changes: dict[str, Any]
) -> None:
    """The CUDA path on the CPU: padded batches and children give the same ranking, with nothing data-dependent."""
    model, _, rows = tiny_model(prepare, name, decoding="beam", compiled=False, **changes)
    assert model.history_encoder.static_shapes
    tokens = model.history_tokens(rows)
    with torch.no_grad():
        leaves, scores = model.rank(tokens)
        monkeypatch.setattr("recbole_sid.decoding.children._ragged", _padded)
        # `mask_bias` reads the mask to leave out the bias on the CPU only.
        monkeypatch.setattr("recbole_sid.nn.t5.mask_bias", masked)
        with NoDataDependence():
            found = model.search(model.scorer(model.encode_padded(tokens)))
    assert torch.equal(found[0], leaves)
    assert_close(found[1], scores, atol=1e-5, rtol=1e-5)


def masked(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)[:, None, None, :]


def test_without_numba_the_torch_path_ranks_alike(prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, rows = tiny_model(prepare, "SIDMLP", compiled=True)
    items, scores = ranking(model, rows)
    monkeypatch.setattr("recbole_sid.model.mlp_ranking.is_usable", lambda: False)
    monkeypatch.setattr("recbole_sid.fast.compiled.decoders.beam", None)
    monkeypatch.setattr("recbole_sid.fast.compiled.decoders.exact", None)
    assert ranking(model, rows)[0] == items
    assert_close(ranking(model, rows)[1], scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("decoding", "exct", r"decoding='exct' \(did you mean 'exact'\?\) must be one of beam, exact, full\."),
        ("normaliser", "child", r"normaliser='child'.* must be one of children, codes\."),
        ("encoder_dtype", "float16", r"encoder_dtype='float16'.* must be one of float32, bfloat16\."),
    ],
)
def test_unknown_ways_of_decoding_are_refused(prepare: Callable[..., Any], key: str, value: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny_model(prepare, "SIDMLP", **{key: value})


def test_a_numba_that_does_not_work_is_left_out(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("cannot cache function: no locator available")

    is_usable.cache_clear()
    monkeypatch.setattr("recbole_sid.fast.compiled_scorer._try_out", broken)
    try:
        model, _, rows = tiny_model(prepare, "SIDMLP", compiled=True)
        assert "Decoding is not compiled, since numba does not work here (RuntimeError: cannot cache" in caplog.text
        assert len(ranking(model, rows)[0]) == len(rows)
    finally:
        is_usable.cache_clear()


@pytest.mark.parametrize(("name", "changes"), [("TIGER", {}), *STUDENTS])
def test_weights_that_are_not_finite_are_refused(
    prepare: Callable[..., Any], name: str, changes: dict[str, Any]
) -> None:
    model, _, rows = tiny_model(prepare, name, **changes)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(InputError, match="scores are not finite, so nothing can be ranked"):
        model.retrieve(rows)


@pytest.mark.parametrize("compiled", [True, False])
def test_scoring_everything_goes_by_parts_of_the_batch(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    model, _, rows = tiny_model(prepare, "SIDMLP", decoding="full", compiled=compiled)
    whole = ranking(model, rows)
    monkeypatch.setattr("recbole_sid.model.base._FULL_SCORES", 3 * model.n_items)
    assert model.fully_scored_users == 3
    assert ranking(model, rows)[0] == whole[0]
    assert_close(ranking(model, rows)[1], whole[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("name", "changes"), STUDENTS)
def test_models_of_other_types_rank(
    prepare: Callable[..., Any], name: str, changes: dict[str, Any], dtype: torch.dtype
) -> None:
    model, _, rows = tiny_model(prepare, name, **changes)
    expected = ranking(model, rows)
    scores = ranking(model.to(dtype), rows)[1]
    assert_close(scores.float(), expected[1], atol=1e-4 if dtype == torch.float64 else 0.5, rtol=0)


def test_a_float32_encoder_refuses_another_type(prepare: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="CausalTransformer computes in float32 only: leave out encoder_dtype"):
        tiny_model(prepare, "SIDMLP", encoder_dtype="bfloat16", teacher_model="CausalSID", teacher_config={})


class _Ranks:
    """In place of a model: finds nothing, and notes how many rows it was asked for."""

    max_seq_length = 20

    def __init__(self) -> None:
        self.vocabulary = TokenVocabulary((4, 4))
        self.eagerly: list[int] = []
        self.captured: list[tuple[int, int]] = []

    def found(self, tokens: torch.Tensor) -> Any:
        self.eagerly.append(len(tokens))


def test_few_graphs_are_captured_and_few_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model, used = _Ranks(), []

    def capture(model: _Ranks, n_users: int, n_items: int, device: torch.device, pool: Any) -> Callable[..., None]:
        model.captured.append((n_users, n_items))
        return lambda tokens: used.append((n_users, len(tokens)))

    monkeypatch.setattr(captured, "CapturedSearch", capture)
    graphs = captured.CapturedSearches()

    def rank(n_users: int, settings: str = "beam 20", n_items: int = 20) -> None:
        graphs.rank(model, torch.zeros(n_users, 2 + 2 * n_items), settings)

    for n_users in (1000, 1000, 1000, 700, 40):  # an evaluation, whose last batches are odd
        rank(n_users)
    assert (model.eagerly, model.captured) == ([1000, 40], [(1024, 20)])
    assert used == [(1024, 1000), (1024, 1000), (1024, 700)]
    rank(40)  # again, so it is worth a graph; the large one would mostly compute padding
    rank(64)
    rank(40, "beam 50")
    assert model.captured == [(1024, 20), (64, 20)]
    assert used[3:] == [(64, 40), (64, 64)]
    assert model.eagerly[2:] == [40]
    for n_items in (3, 7, 5, 9):  # narrower ones: at first in the graph of others, if it is not much larger
        rank(64, n_items=n_items)
    assert model.captured[2:] == [(64, 5), (64, 10)]
    assert used[5:] == [(64, 64)] * 4
    del model.captured[2:]
    for beam_size in range(20):
        for _ in range(2):
            rank(8, f"beam {beam_size}")
        rank(1000)  # in use all the time, so it stays
    assert len(graphs._graphs) == captured._MOST_GRAPHS
    assert model.captured.count((1024, 20)) == 1
    rank(64)
    assert model.captured.count((64, 20)) == 2


def test_trying_out_numba_leaves_the_random_state_alone() -> None:
    is_usable.cache_clear()
    torch.manual_seed(3)
    expected = torch.get_rng_state()
    assert is_usable()
    assert torch.equal(torch.get_rng_state(), expected)


def test_a_decoder_of_ones_own_works_on_students_with_numba(
    prepare: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/extending.md says: a function and a line in DECODERS."""

    def toy(scorer: Any, trie: Trie, k: int, normaliser: str = "children") -> tuple[torch.Tensor, torch.Tensor]:
        leaves, scores = DECODERS["beam"](scorer, trie, k, normaliser)
        return leaves[:, :2], scores[:, :2]

    monkeypatch.setitem(DECODERS, "toy", toy)
    assert is_usable()
    model, _, rows = tiny_model(prepare, "SIDMLP", decoding="toy", compiled=True)
    model.full_sort_items = 0
    leaves, scores = model.rank(model.history_tokens(rows))
    model.decoding = "beam"
    expected = model.rank(model.history_tokens(rows))
    assert torch.equal(leaves, expected[0][:, :2])
    assert_close(scores, expected[1][:, :2], atol=1e-5, rtol=1e-5)


def test_compiled_code_is_kept_until_any_source_of_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba by itself looks at a function's own file only, not at what it calls in others."""
    from recbole_sid.fast.compiled import jit

    (tmp_path / "doubling.py").write_text("def double(x):\n    return 2 * x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("doubling")
    monkeypatch.delitem(sys.modules, "doubling")
    hits = []
    for sources in ("first", "first", "second", "second"):
        monkeypatch.setattr(jit, "_SOURCES", sources)
        double = jit.jit(module.double)
        assert double(4) == 8
        hits.append(sum(double.stats.cache_hits.values()))
    assert hits == [0, 1, 0, 1]


def test_what_is_compiled_in_a_folder_that_nobody_may_write_to_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an installation in an image, which others than who installed it run."""
    from numba import config

    from recbole_sid.fast.compiled import jit

    (tmp_path / "tripling.py").write_text("def triple(x):\n    return 3 * x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("tripling")
    monkeypatch.delitem(sys.modules, "tripling")
    assert jit.jit(module.triple)(4) == 12
    monkeypatch.setattr(jit, "_BESIDE", tmp_path / "__pycache__")
    monkeypatch.setattr(jit.os, "access", lambda path, mode: not mode & os.W_OK)
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "of_the_user"))
    triple = jit.jit(module.triple)
    assert jit.is_kept(triple)
    assert triple(4) == 12
    assert sum(triple.stats.cache_hits.values()) == 1
    assert not list((tmp_path / "of_the_user").rglob("*.nb?"))
    monkeypatch.setattr(jit, "_SOURCES", "changed")
    triple = jit.jit(module.triple)
    assert not jit.is_kept(triple)
    assert triple(4) == 12
    assert list((tmp_path / "of_the_user").rglob("*.nbc"))


def test_the_hash_of_compiled_sources_is_of_all_of_them() -> None:
    from recbole_sid.fast.compiled import jit, search

    assert jit._hash_of_sources() == jit._SOURCES
    assert jit._SOURCES in search.search_beams._cache._cache_file._source_stamp
    folder = Path(jit.__file__).parent
    assert {path.name for path in folder.glob("*.py")} >= {"heads.py", "top_k.py", "expansion.py", "search.py"}
