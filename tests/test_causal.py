"""CausalSID: equal to transformers' Llama, trained on TIGER's rows in one pass a sequence, decoded with a cache."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL_CAUSAL
from torch.testing import assert_close

from recbole_sid.checkpoint import load_checkpoint
from recbole_sid.config import Config
from recbole_sid.data.dataset import ROW_FIELD
from recbole_sid.data.loader import training_loader
from recbole_sid.data.windows import WINDOW_FIELD, Windows
from recbole_sid.errors import InputError
from recbole_sid.model.causal import CausalSID
from recbole_sid.nn.causal_transformer import CausalSizes, CausalTransformer
from recbole_sid.nn.vocabulary import PAD
from recbole_sid.quick_start import load_data_and_model, make_trainer, run_model, run_recbole_sid
from recbole_sid.trainer.distill_cache import CachedSupervision

EXACT = {"rtol": 1e-9, "atol": 1e-9}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
EOS = 19


@pytest.fixture
def causal(prepare: Callable[..., Any]) -> Callable[..., tuple[CausalSID, Any]]:
    """Return ``causal(**changes) -> model in eval mode, training loader``, with weights that are not small."""

    def make(**changes: Any) -> tuple[CausalSID, Any]:
        config, train, _, _ = prepare("CausalSID", **changes)
        torch.manual_seed(0)
        model = CausalSID(config, train._dataset).eval()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        return model, train

    return make


def all_rows(train: Any) -> Any:
    """Return all training rows, in order, without their windows."""
    rows = train._dataset[torch.arange(len(train._dataset))]
    del rows.interaction[WINDOW_FIELD]
    return rows


# The transformer


def transformer() -> CausalTransformer:
    torch.manual_seed(1)
    return CausalTransformer(CausalSizes(vocabulary=20, d_model=24, d_ff=40, n_heads=3, n_layers=3), EOS).eval()


def tokens_of(*lengths: int) -> torch.Tensor:
    """Return histories int64 [B, S] of these lengths, end-of-sequence included, padded on the right."""
    tokens = torch.randint(1, EOS, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(2))
    place, n_tokens = torch.arange(max(lengths)), torch.tensor(lengths).unsqueeze(1)
    return tokens.masked_fill(place == n_tokens - 1, EOS).masked_fill(place >= n_tokens, PAD)


def test_equals_transformers_llama() -> None:
    transformers = pytest.importorskip("transformers")
    own = transformer()
    with torch.no_grad():
        for norm in (own.norm, own.blocks[1].attention_norm, own.blocks[2].feed_forward_norm):
            norm.weight.uniform_(0.5, 2)
    theirs = transformers.LlamaModel(
        transformers.LlamaConfig(
            vocab_size=20,
            hidden_size=24,
            intermediate_size=40,
            num_attention_heads=3,
            num_hidden_layers=3,
            rms_norm_eps=1e-6,
            pad_token_id=PAD,
        )
    ).eval()
    state = {"embed_tokens.weight": own.embedding.weight, "norm.weight": own.norm.weight}
    for number, block in enumerate(own.typed_blocks):
        q, k, v = block.query_key_value.weight.chunk(3)
        gate, up = block.gate_up.weight.chunk(2)
        of_layer = {
            "self_attn.q_proj": q,
            "self_attn.k_proj": k,
            "self_attn.v_proj": v,
            "self_attn.o_proj": block.output.weight,
            "mlp.gate_proj": gate,
            "mlp.up_proj": up,
            "mlp.down_proj": block.down.weight,
            "input_layernorm": block.attention_norm.weight,
            "post_attention_layernorm": block.feed_forward_norm.weight,
        }
        state |= {f"layers.{number}.{name}.weight": weight for name, weight in of_layer.items()}
    theirs.load_state_dict(state)
    tokens = tokens_of(9, 30, 2)
    mask = tokens != PAD
    expected = theirs(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    assert_close(own.hidden(tokens)[mask], expected[mask], **CLOSE)


def test_packed_states_are_the_padded_ones_and_the_end_repeats_the_last_code() -> None:
    own = transformer().double()
    tokens = tokens_of(9, 30, 2, 9)
    mask = tokens != PAD
    states = own(tokens, mask)
    assert_close(own.packed(tokens, mask).padded()[mask], states[mask], **EXACT)
    for row, length in enumerate([9, 30, 2, 9]):
        alone = own.hidden(tokens[row : row + 1, : length - 1])[0]
        assert_close(states[row, :length], torch.cat([alone, alone[-1:]]), **EXACT)


# Windows


def histories_of(dataset: Any, stride: int) -> Counter[tuple[Any, ...]]:
    """Return how often a window of `dataset` trains each (user, history, target)."""
    found: Counter[tuple[Any, ...]] = Counter()
    windows = Windows.of(dataset, stride)
    batch = dataset[windows.rows]
    for row, n_targets in enumerate(windows.n_targets.tolist()):
        length = int(batch["item_length"][row])
        items = [*batch["item_id_list"][row, :length].tolist(), int(batch["item_id"][row])]
        for place in range(len(items) - n_targets, len(items)):
            found[int(batch["user_id"][row]), tuple(items[:place]), items[place]] += 1
    return found


def tigers_rows(dataset: Any) -> Counter[tuple[Any, ...]]:
    batch = dataset[torch.arange(len(dataset))]
    lengths = batch["item_length"].tolist()
    histories = [tuple(items[:length]) for items, length in zip(batch["item_id_list"].tolist(), lengths, strict=True)]
    return Counter(zip(batch["user_id"].tolist(), histories, batch["item_id"].tolist(), strict=True))


@pytest.mark.parametrize("longest", [1, 3, 6, 50])
def test_windows_train_exactly_tigers_rows(prepare: Callable[..., Any], longest: int) -> None:
    dataset = prepare("TIGER", MAX_ITEM_LIST_LENGTH=longest)[1]._dataset
    assert histories_of(dataset, 1) == tigers_rows(dataset)


def test_windows_are_few(prepare: Callable[..., Any]) -> None:
    dataset = prepare("TIGER", MAX_ITEM_LIST_LENGTH=50)[1]._dataset
    assert len(Windows.of(dataset, 1).rows) == len(set(dataset.inter_feat["user_id"].tolist()))


@pytest.mark.parametrize("stride", [2, 3, 100])
def test_wider_strides_shorten_histories_by_less_than_the_stride(prepare: Callable[..., Any], stride: int) -> None:
    dataset = prepare("TIGER", MAX_ITEM_LIST_LENGTH=4)[1]._dataset
    found, rows = histories_of(dataset, stride), tigers_rows(dataset)
    assert found.total() == rows.total()
    shortened = Counter[tuple[Any, ...]]()
    for user, history, target in found.elements():
        fits = [row for row in rows if row[0] == user and row[2] == target and row[1][-len(history) :] == history]
        assert min(len(row[1]) for row in fits) - len(history) < stride
        shortened[user, target] += 1
    assert shortened == Counter((user, target) for user, _, target in rows.elements())
    assert len(Windows.of(dataset, stride).rows) < len(Windows.of(dataset, 1).rows)


def test_rows_that_are_missing_are_not_trained(prepare: Callable[..., Any]) -> None:
    dataset = prepare("TIGER")[1]._dataset
    kept = torch.rand(len(dataset), generator=torch.Generator().manual_seed(0)) < 0.6
    some = dataset.copy(dataset.inter_feat[torch.randperm(len(dataset))[: len(dataset) // 2]])
    for part in (some, dataset.copy(dataset.inter_feat[kept.nonzero().squeeze(1)])):
        assert histories_of(part, 1) == tigers_rows(part)


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_window_once(prepare: Callable[..., Any], shuffle: bool) -> None:
    config, train, _, _ = prepare("CausalSID", shuffle=shuffle)
    windows = Windows.of(train._dataset, 1)
    numbers = train._dataset.inter_feat[ROW_FIELD][windows.rows]
    expected = Counter(zip(numbers.tolist(), windows.n_targets.tolist(), strict=True))
    for loader in (train, training_loader(config, train._dataset)):
        batches = list(loader)
        assert len(batches) == len(loader)
        found = Counter[tuple[int, int]]()
        for batch in batches:
            found.update(zip(batch[ROW_FIELD].tolist(), batch[WINDOW_FIELD].tolist(), strict=True))
        assert found == expected


def test_a_stride_below_one_is_refused(prepare: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="window_stride=0"):
        prepare("CausalSID", window_stride=0)


# Training in one pass


def test_logits_of_a_window_are_those_of_its_prefixes(causal: Callable[..., Any]) -> None:
    model, train = causal(n_user_tokens=3)
    model.double()
    vocabulary, n_levels = model.vocabulary, model.vocabulary.n_levels
    windows = train._dataset[Windows.of(train._dataset, 1).rows[:8]]
    assert windows[WINDOW_FIELD].max() > 3
    for row in range(len(windows)):
        length = int(windows["item_length"][row])
        items = torch.cat([windows["item_id_list"][row, :length], windows["item_id"][row : row + 1]])
        user = windows["user_id"][row : row + 1]
        whole = vocabulary.serialise(model.item_tokens[items].unsqueeze(0), torch.tensor([length + 1]), user)
        states = model.transformer.hidden(whole[:, :-2])[0]
        for place in range(length + 1 - int(windows[WINDOW_FIELD][row]), length + 1):
            tokens = vocabulary.serialise(model.item_tokens[items[None, :place]], torch.tensor([place]), user)
            separate = model.target_logits(tokens, model.item_codes[items[place]].unsqueeze(0))
            for level in range(n_levels):
                packed = model.level_vocabulary_logits(states[place * n_levels + level], level)
                assert_close(packed, separate[level][0], **EXACT)


def test_losses_of_an_epoch_are_the_mean_over_tigers_rows(causal: Callable[..., Any], settings: Any) -> None:
    model, train = causal()
    model.double()
    rows = all_rows(train)
    codes = model.target_codes(rows)
    logits = model.target_logits(model.history_tokens(rows), codes)
    chosen = [part.log_softmax(-1).gather(1, codes[:, level, None]) for level, part in enumerate(logits)]
    expected = -torch.cat(chosen, dim=1).mean()
    assert_close(model.calculate_loss(rows), expected, **EXACT)  # each row alone

    trainer = make_trainer(Config("CausalSID", "tiny", config_dict=settings("CausalSID")), train)
    trainer.model = model
    trainer.start_stage(trainer.stages()[0], train)
    losses = torch.stack([model.calculate_loss(batch) for batch in train])
    assert len({len(batch) for batch in train}) == 2  # the last batch is a short one, and weighs less
    assert_close(losses.mean(), expected, **EXACT)


def test_gradients_are_those_of_separate_rows(causal: Callable[..., Any]) -> None:
    model, train = causal()
    model.double()
    windows = train._dataset[Windows.of(train._dataset, 1).rows]
    gradients = []
    for batch in (windows, all_rows(train)):
        model.zero_grad()
        model.calculate_loss(batch).backward()
        gradients.append([weight.grad for weight in model.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs, **EXACT)


def test_teaching_gives_the_history_encoders_states(causal: Callable[..., Any]) -> None:
    model, train = causal()
    model.double()
    rows = all_rows(train)[:20]
    tokens, codes = model.history_tokens(rows), model.target_codes(rows)
    states, logits = model.teach(tokens, codes)
    mask = tokens != PAD
    assert_close(states[mask], model.history_encoder(tokens, mask)[mask], **EXACT)
    for row in range(len(rows)):
        alone = model.teach(tokens[row : row + 1, : int(mask[row].sum())], codes[row : row + 1])
        for level, part in enumerate(alone[1]):
            assert_close(logits[level][row], part[0], **EXACT)


# Ranking


def evaluation_rows(causal: Callable[..., Any], **changes: Any) -> tuple[CausalSID, Any]:
    model, train = causal(**changes)
    return model, all_rows(train)[:25]


def item_scores(model: CausalSID, rows: Any) -> torch.Tensor:
    """Return the log-probability [B, n_items] of every item, each from its own run without a cache."""
    columns = []
    for item in range(1, model.n_items):
        rows.interaction["item_id"] = torch.full_like(rows["item_id"], item)
        columns.append(model.predict(rows))
    return torch.stack([torch.full_like(columns[0], -torch.inf), *columns], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("levels", [[5, 3], [40], [3, 3, 2]])
@pytest.mark.parametrize("constrained", [True, False])
def test_search_with_the_cache_is_brute_force(causal: Callable[..., Any], constrained: bool, levels: list[int]) -> None:
    collision = "keep" if len(levels) == 1 else "rank"  # rank adds a level
    model, rows = evaluation_rows(
        causal, constrained=constrained, beam_size=2000, codebook_sizes=levels, collision=collision
    )
    assert model.vocabulary.n_levels == (1 if len(levels) == 1 else len(levels) + 1)
    expected = item_scores(model, rows)
    for decoding in ("beam", "exact", "full"):
        model.decoding = decoding
        row, items, scores = model.retrieve(rows)
        found = torch.full_like(expected, -torch.inf)
        found[row, items] = scores
        assert_close(found, expected, **CLOSE)
        assert all((scores[row == user].diff() <= 0).all() for user in range(len(rows)))
    assert_close(model.full_sort_predict(rows).view_as(expected), expected, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("constrained", [True, False])
def test_a_narrow_beam_is_brute_force_beam_search(causal: Callable[..., Any], constrained: bool) -> None:
    model, rows = evaluation_rows(causal, constrained=constrained, beam_size=10, codebook_sizes=[4, 3, 2])
    model.double()
    tokens = model.history_tokens(rows)
    leaves, scores = model.rank(tokens)
    sizes = model.vocabulary.codebook_sizes
    prefixes = {tuple(codes[:n]) for codes in model.item_codes[1:].tolist() for n in range(1, len(sizes) + 1)}
    items = {tuple(codes) for codes in model.item_codes[1:].tolist()}
    for user in range(len(rows)):
        beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
        for level, size in enumerate(sizes):
            longer = []
            for prefix, score in beams:
                full = torch.tensor([[*prefix, *[0] * (len(sizes) - level)]])
                logits = model.target_logits(tokens[user : user + 1], full)[level][0]
                codes = [c for c in range(size) if not constrained or (*prefix, c) in prefixes]
                log_probs = logits[codes].log_softmax(-1).tolist()
                longer += [((*prefix, c), score + p) for c, p in zip(codes, log_probs, strict=True)]
            beams = sorted(longer, key=lambda beam: -beam[1])[:10]
        expected = [(codes, score) for codes, score in beams if codes in items]
        valid = leaves[user] >= 0
        found = model.trie.expand_leaves(leaves[user][valid])[1]
        assert [tuple(model.item_codes[item].tolist()) for item in found] == [codes for codes, _ in expected]
        wanted = torch.tensor([score for _, score in expected])
        assert_close(scores[user][valid].float(), wanted, **CLOSE)


@torch.no_grad()
def test_a_state_may_be_extended_again(causal: Callable[..., Any]) -> None:
    model, rows = evaluation_rows(causal, codebook_sizes=[4, 3, 2])
    scorer = model.scorer(model.encode(model.history_tokens(rows)))
    first = scorer.extend(scorer.start(), torch.zeros(25, 3, dtype=torch.int64), torch.tensor([[0, 2, 3]] * 25))
    parents, codes = torch.tensor([[2, 0]] * 25), torch.tensor([[1, 2]] * 25)
    once = scorer.logits(scorer.extend(first, parents, codes), None)
    scorer.extend(first, parents.flip(1), codes)
    assert_close(scorer.logits(scorer.extend(first, parents, codes), None), once, rtol=0, atol=0)
    chosen = scorer.logits(scorer.extend(first, parents, codes), torch.tensor([3, 0]))
    assert_close(chosen, once[[3, 0]], **CLOSE)


# Runs


@pytest.fixture
def run(settings: Callable[..., dict[str, Any]]) -> Callable[..., Any]:
    return lambda model="CausalSID", **changes: run_model(Config(model, "tiny", config_dict=settings(model, **changes)))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_the_loss_falls_and_the_checkpoint_ranks_alike(run: Callable[..., Any]) -> None:
    trained = run(epochs=10, learning_rate=0.01, dropout_prob=0.0)
    losses = list(trained.trainer.train_loss_dict.values())
    assert losses[-1] < 0.8 * losses[0]
    _, model, _, _, _, test = load_data_and_model(trained.trainer.saved_model_file)
    rows = next(iter(test))[0]
    assert_close(model.full_sort_predict(rows), trained.trainer.model.full_sort_predict(rows))


def test_resumed_training_equals_the_uninterrupted(run: Callable[..., Any], tmp_path: Path) -> None:
    whole = weights(run(epochs=3, checkpoint_dir="whole").trainer.model)

    class Interrupt(Exception):
        pass

    def interrupt(epoch: int, score: float) -> None:
        if epoch == 1:
            raise Interrupt

    from recbole_sid.trainer.window_trainer import WindowTrainer

    with pytest.MonkeyPatch.context() as patch:
        fit = WindowTrainer.fit
        patch.setattr(WindowTrainer, "fit", lambda *a, **k: fit(*a, **k, callback_fn=interrupt))
        with pytest.raises(Interrupt):
            run(epochs=3, checkpoint_dir="parts")
    resumed = run(epochs=3, checkpoint_dir="parts", resume=True)
    assert resumed.trainer.train_loss_dict.keys() < {0, 1, 2}
    for name, value in weights(resumed.trainer.model).items():
        assert torch.equal(value, whole[name]), name


SMALL_TEACHER = {"teacher_model": "CausalSID", "teacher_config": {**SMALL_CAUSAL, "epochs": 2}}


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("SIDMLP", {"distill_cache": "none"}),
        ("SIDMLP", {"distill_cache": "memory"}),
        ("SIDMLPPlusPlus", {"encoder": "token"}),
        ("SIDMLPPlusPlus", {"encoder": "item"}),
    ],
)
def test_students_distil_from_it(run: Callable[..., Any], model: str, changes: dict[str, Any]) -> None:
    if changes.get("encoder") == "item":
        changes = {**changes, "distill_stages": None}
    trained = run(model, **{**SMALL_TEACHER, "epochs": 4, **changes})
    losses = list(trained.trainer.train_loss_dict.values())
    assert losses[-1] < losses[0]
    student = trained.trainer.model
    if model == "SIDMLP":  # keeps the teacher's encoder as it is
        teacher = load_checkpoint(trained.config["teacher_path"])["state_dict"]
        for name, value in student.history_encoder.state_dict().items():
            assert torch.equal(value, teacher[f"transformer.{name}"]), name
    Path(trained.config["teacher_path"]).unlink()  # not needed to rank
    _, loaded, _, _, _, test = load_data_and_model(trained.trainer.saved_model_file)
    rows = next(iter(test))[0]
    assert_close(loaded.full_sort_predict(rows), student.full_sort_predict(rows))


def test_cached_supervision_is_the_online_one(run: Callable[..., Any], prepare: Callable[..., Any]) -> None:
    path = run().trainer.saved_model_file
    config, train, _, _ = prepare("SIDMLP", teacher_path=path)
    trainer = make_trainer(config, train)
    trainer.start_stage(trainer.stages()[0], train)
    online = trainer.supervision
    cached = CachedSupervision(online, train, torch.device("cpu"), None, False)
    for batch in itertools.islice(train, 3):
        now, kept = online(batch), cached(batch)
        width = kept.states.shape[1]
        assert torch.equal(now.mask[:, :width], kept.mask)
        assert_close(kept.states[kept.mask], now.states[:, :width][kept.mask], rtol=1e-2, atol=1e-2)
        for ours, theirs in zip(kept.logits, now.logits, strict=True):
            assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


def test_a_checkpoint_of_other_semantic_ids_is_refused(run: Callable[..., Any]) -> None:
    path = run().trainer.saved_model_file
    with pytest.raises(InputError, match=re.escape("semantic IDs")):
        run("SIDMLP", teacher_path=path, codebook_sizes=[4, 4])


def test_it_learns_what_follows_what(settings: Callable[..., dict[str, Any]]) -> None:
    changes = {"epochs": 40, "learning_rate": 0.02, "stopping_step": 40, "eval_step": 5, "dropout_prob": 0.0}
    result = run_recbole_sid("CausalSID", "tiny", config_dict=settings("CausalSID", **changes))
    assert result["test_result"]["ndcg@10"] > 0.4  # random lists: about 0.15
    assert np.isfinite(result["best_valid_score"])
