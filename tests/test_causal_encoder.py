"""TIGER with a causal encoder: trained on windows exactly as prefix by prefix; ranked and distilled as TIGER."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL_TIGER
from test_causal import all_rows
from test_engines import check_parity
from test_torch_engines import engine_of
from torch.testing import assert_close

from recbole_sid.config import Config
from recbole_sid.data.windows import WINDOW_FIELD, Windows
from recbole_sid.errors import InputError
from recbole_sid.exporting.forms import form_of
from recbole_sid.model.tiger import TIGER
from recbole_sid.nn.t5 import T5Encoder, T5Sizes
from recbole_sid.nn.vocabulary import PAD
from recbole_sid.quick_start import load_data_and_model, make_trainer, run_recbole_sid
from recbole_sid.registry import get_model, get_trainer
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.trainer.window_trainer import WindowTrainer

CAUSAL = {"encoder_attention": "causal", "encoder_layers": 2, "decoder_layers": 2, "train_batch_size": 8}
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
NORMED = {"rtol": 1e-5, "atol": 1e-7}  # norms scale in single precision, whatever the weights are


@pytest.fixture
def causal(prepare: Callable[..., Any]) -> Callable[..., tuple[TIGER, Any]]:
    """Return ``causal(**changes) -> model in double precision and eval mode, training loader``."""

    def make(**changes: Any) -> tuple[TIGER, Any]:
        config, train, _, _ = prepare("TIGER", **{**CAUSAL, **changes})
        torch.manual_seed(0)
        model = TIGER(config, train._dataset).eval().double()
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        return model, train

    return make


def tokens_of(*lengths: int, vocabulary: int = 30) -> torch.Tensor:
    tokens = torch.randint(1, vocabulary, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(2))
    return tokens.masked_fill(torch.arange(max(lengths)) >= torch.tensor(lengths).unsqueeze(1), PAD)


def loss_by_row(model: TIGER, rows: Any) -> torch.Tensor:
    """Return the loss [B] of rows, each history encoded on its own and whole, by the model's parts."""
    losses = []
    tokens, codes = model.history_tokens(rows), model.target_codes(rows)
    for row, history in enumerate(tokens):
        own = history[history != PAD].unsqueeze(0)
        mask = torch.ones_like(own, dtype=torch.bool)
        targets = F.pad(model.vocabulary.code_tokens(codes[row : row + 1]), (0, 1), value=model.vocabulary.eos)
        logits = model.teacher_forced(model.encoder(own, mask), mask, targets)
        losses.append(F.cross_entropy(logits[0], targets[0]))
    return torch.stack(losses)


# The encoder


def test_states_equal_a_causal_stack_of_transformers() -> None:
    """Which numbers distances in one direction, and reaches beyond the last of them."""
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Stack

    from recbole_sid.nn.t5 import to_transformers

    torch.manual_seed(1)
    own = T5Encoder(T5Sizes(30, d_model=16, d_ff=24, n_heads=3, d_kv=4, encoder_layers=2, causal_encoder=True)).eval()
    with torch.no_grad():
        for weight in own.parameters():
            weight.normal_(1.0 if weight.dim() == 1 else 0.0, 0.3)
    config = T5Config(
        vocab_size=30,
        d_model=16,
        d_ff=24,
        num_heads=3,
        d_kv=4,
        num_layers=2,
        dropout_rate=0.0,
        feed_forward_proj="relu",
        is_decoder=True,
        use_cache=False,
    )
    theirs = T5Stack(config).eval()
    named = to_transformers({f"encoder.{name}": value for name, value in own.state_dict().items()})
    # A decoder's feed-forward comes after cross-attention, which is skipped without states to read.
    state = {
        name.removeprefix("encoder.").replace("layer.1.", "layer.2."): value
        for name, value in named.items()
        if name.startswith("encoder.")
    }
    missing, surplus = theirs.load_state_dict(state, strict=False)
    assert not surplus
    assert all(".layer.1." in name for name in missing)  # cross-attention
    tokens = tokens_of(9, 150, 2)
    mask = tokens != PAD
    expected = theirs(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    assert_close(own(tokens, mask)[mask], expected[mask], **TOLERANCE)
    with torch.no_grad():
        assert_close(own.packed(tokens, mask).padded()[mask], expected[mask], **TOLERANCE)


# Training on windows


@pytest.mark.parametrize(
    "changes", [{}, {"n_user_tokens": 3}, {"codebook_sizes": [4, 3, 2]}, {"MAX_ITEM_LIST_LENGTH": 50}], ids=str
)
def test_loss_and_gradients_are_those_of_separate_rows(causal: Callable[..., Any], changes: dict[str, Any]) -> None:
    model, train = causal(**changes)
    windows = train._dataset[Windows.of(train._dataset, 1).rows]
    assert len(windows[WINDOW_FIELD].unique()) > 2
    loss = model.calculate_loss(windows)
    loss.backward()
    gradients = [weight.grad for weight in model.parameters()]
    model.zero_grad()
    expected = loss_by_row(model, all_rows(train)).mean()
    expected.backward()
    assert_close(loss, expected, **NORMED)
    for found, weight in zip(gradients, model.parameters(), strict=True):
        assert_close(found, weight.grad, **NORMED)


def test_rows_alone_are_windows_of_one_target(causal: Callable[..., Any]) -> None:
    model, train = causal()
    rows = all_rows(train)
    assert_close(model.calculate_loss(rows), loss_by_row(model, rows).mean(), **NORMED)


def test_losses_of_an_epoch_are_the_mean_over_rows(causal: Callable[..., Any], settings: Any) -> None:
    model, train = causal()
    expected = loss_by_row(model, all_rows(train)).mean()
    trainer = make_trainer(Config("TIGER", "tiny", config_dict=settings("TIGER", **CAUSAL)), train)
    assert isinstance(trainer, WindowTrainer)
    trainer.model = model
    trainer.start_stage(trainer.stages()[0], train)
    losses = torch.stack([model.calculate_loss(batch) for batch in train])
    assert len({len(batch) for batch in train}) == 2  # the last batch is a short one, and weighs less
    assert_close(losses.mean(), expected, **NORMED)


def test_a_device_that_is_not_asked_computes_the_same(
    causal: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from recbole_sid.util import hardware

    model, train = causal()
    batch = next(iter(train))
    expected = model.calculate_loss(batch)
    monkeypatch.setattr(hardware, "on_cpu", lambda what: False)
    assert_close(model.calculate_loss(batch), expected, **NORMED)


def test_a_bidirectional_encoder_trains_rows(prepare: Callable[..., Any]) -> None:
    config, train, _, _ = prepare("TIGER")
    assert get_trainer(config) is SIDTrainer
    assert WINDOW_FIELD not in train._dataset.inter_feat
    with pytest.raises(InputError, match="encoder_attention='sideways'"):
        prepare("TIGER", encoder_attention="sideways")


# Ranking, distillation, export


@torch.no_grad()
@pytest.mark.parametrize("constrained", [True, False])
def test_search_is_brute_force(causal: Callable[..., Any], constrained: bool) -> None:
    model, train = causal(constrained=constrained, beam_size=2000)
    model.float()
    rows = all_rows(train)[:25]
    columns = []
    for item in range(1, model.n_items):
        rows.interaction["item_id"] = torch.full_like(rows["item_id"], item)
        columns.append(model.predict(rows))
    expected = torch.stack([torch.full_like(columns[0], -torch.inf), *columns], dim=1)
    for decoding in ("beam", "exact", "full"):
        model.decoding = decoding
        row, items, scores = model.retrieve(rows)
        found = torch.full_like(expected, -torch.inf)
        found[row, items] = scores
        assert_close(found, expected, **TOLERANCE)


def test_teaching_gives_the_states_and_logits_of_separate_rows(causal: Callable[..., Any]) -> None:
    model, train = causal()
    rows = all_rows(train)[:20]
    tokens, codes = model.history_tokens(rows), model.target_codes(rows)
    states, logits = model.teach(tokens, codes)
    mask = tokens != PAD
    for row in range(len(rows)):
        n = int(mask[row].sum())
        own_states, own_logits = model.teach(tokens[row : row + 1, :n], codes[row : row + 1])
        assert_close(states[row, :n], own_states[0], **NORMED)
        for level, part in enumerate(own_logits):
            assert_close(logits[level][row], part[0], **NORMED)


@pytest.mark.parametrize("name", ["TIGER", "SIDMLP"])
def test_bundles_rank_as_the_model(prepare: Callable[..., Any], name: str) -> None:
    teacher = {"teacher_config": {**SMALL_TIGER, "encoder_attention": "causal"}}
    config, train, _, _ = prepare(name, **(CAUSAL if name == "TIGER" else teacher))
    torch.manual_seed(0)
    model = get_model(name)(config, train._dataset).eval()
    assert not model.history_encoder.relative_bias.bidirectional
    rows = train._dataset[torch.arange(0, len(train._dataset), 3)]
    check_parity(model, rows, engine_of(form_of(model, config, train._dataset)))


def test_trained_distilled_and_loaded(settings: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    saved = {"checkpoint_dir": str(tmp_path / "saved")}
    teacher = run_recbole_sid("TIGER", "tiny", config_dict=settings("TIGER", **CAUSAL, **saved))
    student = run_recbole_sid(
        "SIDMLP", "tiny", config_dict=settings("SIDMLP", teacher_path=str(teacher["model_file"]), **saved)
    )
    for result in (teacher, student):
        model = load_data_and_model(result["model_file"])[1]
        assert not model.history_encoder.relative_bias.bidirectional
        assert result["test_result"]["recall@10"] > 0.2


def test_weights_of_transformers_are_refused(prepare: Callable[..., Any]) -> None:
    config, train, _, _ = prepare("TIGER", **CAUSAL)
    model = TIGER(config, train._dataset)
    for ask in (model.transformers_state_dict, lambda: model.load_transformers_state_dict({})):
        with pytest.raises(InputError, match="no counterpart in transformers"):
            ask()
