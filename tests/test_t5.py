"""Our T5 is transformers' T5ForConditionalGeneration; its decoder cache is teacher-forced decoding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import T5Config, T5ForConditionalGeneration

from recbole_sid.errors import InputError
from recbole_sid.model.t5 import T5DecoderCache
from recbole_sid.model.tiger import TIGER

# The inner width differs from d_model, and the encoder's depth from the decoder's.
SIZES = {
    "d_model": 16,
    "d_ff": 24,
    "n_heads": 3,
    "d_kv": 4,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "dropout_prob": 0.0,
}
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture
def tiger(prepare: Callable[..., Any]) -> TIGER:
    config, train, _, _ = prepare("TIGER", **SIZES)
    return randomised(TIGER(config, train._dataset))


@pytest.fixture
def reference(tiger: TIGER) -> T5ForConditionalGeneration:
    model = transformers_t5(tiger)
    model.load_state_dict(tiger.transformers_state_dict(), strict=True)
    return model


def randomised(model: TIGER) -> TIGER:
    """Give every weight, norms included, a random value."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return model


def transformers_t5(model: TIGER) -> T5ForConditionalGeneration:
    config = T5Config(
        vocab_size=model.vocabulary.size,
        d_model=SIZES["d_model"],
        d_kv=SIZES["d_kv"],
        d_ff=SIZES["d_ff"],
        num_layers=SIZES["encoder_layers"],
        num_decoder_layers=SIZES["decoder_layers"],
        num_heads=SIZES["n_heads"],
        dropout_rate=0.0,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        decoder_start_token_id=0,
        pad_token_id=0,
    )
    return T5ForConditionalGeneration(config)


def padded_tokens(model: TIGER, lengths: list[int]) -> torch.Tensor:
    """Return random tokens int64 [B, S], zero from each row's length on."""
    torch.manual_seed(2)
    tokens = torch.randint(1, model.vocabulary.size, (len(lengths), max(lengths)))
    for row, length in enumerate(lengths):
        tokens[row, length:] = 0
    return tokens


# 150 tokens reach distances beyond the last bucket (128), 4 stay within the exact ones.
@pytest.mark.parametrize("lengths", [[4, 1, 3], [150, 40, 7], [12, 12]])
def test_encoder_states_equal_transformers(
    tiger: TIGER, reference: T5ForConditionalGeneration, lengths: list[int]
) -> None:
    tokens = padded_tokens(tiger, lengths)
    mask = tokens != 0
    expected = reference.encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    assert_close(tiger.encoder(tokens, mask)[mask], expected[mask], **TOLERANCE)


@pytest.mark.parametrize("n_targets", [1, 4, 140])
def test_logits_equal_transformers(tiger: TIGER, reference: T5ForConditionalGeneration, n_targets: int) -> None:
    tokens, targets = padded_tokens(tiger, [9, 30, 2]), padded_tokens(tiger, [n_targets] * 3)
    mask = tokens != 0
    expected = reference(input_ids=tokens, attention_mask=mask.long(), labels=targets).logits
    assert_close(tiger.teacher_forced(tiger.encoder(tokens, mask), mask, targets), expected, **TOLERANCE)


def test_level_logits_are_the_levels_parts_of_transformers_logits(
    tiger: TIGER, reference: T5ForConditionalGeneration
) -> None:
    tokens = padded_tokens(tiger, [9, 30, 2])
    mask = tokens != 0
    codes = torch.tensor([[4, 0, 1], [0, 2, 0], [2, 1, 1]])
    first = [1, 1 + 5, 1 + 5 + 3]
    expected = reference(input_ids=tokens, attention_mask=mask.long(), labels=codes + torch.tensor(first)).logits
    found = tiger.level_logits(tiger.encoder(tokens, mask), mask, codes)
    for level, (start, size) in enumerate(zip(first, tiger.vocabulary.codebook_sizes, strict=True)):
        assert_close(found[level], expected[:, level, start : start + size], **TOLERANCE)


def test_loss_and_gradients_equal_transformers(
    tiger: TIGER, reference: T5ForConditionalGeneration, prepare: Callable[..., Any]
) -> None:
    _, train, _, _ = prepare("TIGER", **SIZES)
    batch = next(iter(train))
    tokens = tiger.history_tokens(batch)
    codes = tiger.item_codes[batch["item_id"]]
    rank_size = tiger.vocabulary.codebook_sizes[2]
    targets = torch.cat([codes + torch.tensor([1, 6, 9]), torch.full((len(codes), 1), 9 + rank_size + 1)], dim=1)

    loss = tiger.calculate_loss(batch)
    loss.backward()
    expected = reference(input_ids=tokens, attention_mask=(tokens != 0).long(), labels=targets).loss
    expected.backward()

    assert len(set((tokens != 0).sum(1).tolist())) > 1  # some rows are padded
    assert_close(loss, expected, **TOLERANCE)
    gradients = {name: parameter.grad for name, parameter in tiger.named_parameters()}
    expected_gradients = {name: parameter.grad for name, parameter in reference.named_parameters()}
    names = tiger.transformers_state_dict()
    assert expected_gradients.keys() == names.keys() - {
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "lm_head.weight",
    }
    by_weight = {value.data_ptr(): gradients[name] for name, value in tiger.named_parameters()}
    for name, gradient in expected_gradients.items():
        assert_close(by_weight[names[name].data_ptr()], gradient, **TOLERANCE)


def test_weights_survive_the_way_to_transformers_and_back(
    tiger: TIGER, reference: T5ForConditionalGeneration, prepare: Callable[..., Any]
) -> None:
    config, train, _, _ = prepare("TIGER", **SIZES)
    other = TIGER(config, train._dataset)
    other.load_transformers_state_dict(reference.state_dict())
    assert tiger.state_dict().keys() == other.state_dict().keys()
    for name, value in tiger.state_dict().items():
        assert_close(other.state_dict()[name], value, atol=0, rtol=0)


def test_a_missing_weight_is_named(tiger: TIGER) -> None:
    state = tiger.transformers_state_dict()
    del state["decoder.block.1.layer.1.EncDecAttention.k.weight"]
    with pytest.raises(InputError, match=r"decoder\.block\.1\.layer\.1\.EncDecAttention\.k\.weight"):
        tiger.load_transformers_state_dict(state)


def test_a_weight_of_another_shape_is_named_with_both_shapes(tiger: TIGER) -> None:
    state = tiger.transformers_state_dict()
    state["encoder.block.0.layer.1.DenseReluDense.wi.weight"] = torch.zeros(7, 16)
    with pytest.raises(InputError, match=r"'encoder\.blocks\.0\.feed_forward\.wi\.weight'.*\(7, 16\).*\(24, 16\)"):
        tiger.load_transformers_state_dict(state)


@torch.no_grad()
@pytest.mark.parametrize("lengths", [[9, 30, 2], [6, 6, 6]])
def test_cached_steps_with_reordered_beams_equal_teacher_forcing(tiger: TIGER, lengths: list[int]) -> None:
    tiger.eval()
    tokens = padded_tokens(tiger, lengths)
    mask = tokens != 0
    states = tiger.encoder(tokens, mask)
    cache = T5DecoderCache(tiger.decoder, states, mask)
    generator = torch.Generator().manual_seed(3)

    # prefixes[user][beam]: the decoder's input tokens so far; the number of beams changes at every step.
    prefixes = [[[0]] for _ in lengths]
    found = cache.step(tiger.token_embedding(torch.zeros(len(lengths), 1, dtype=torch.int64)))
    for n_beams in (4, 6, 3, 5):
        parents = torch.randint(len(prefixes[0]), (len(lengths), n_beams), generator=generator)
        added = torch.randint(1, tiger.vocabulary.size, (len(lengths), n_beams), generator=generator)
        found = cache.step(tiger.token_embedding(added), parents)
        prefixes = [
            [[*prefixes[user][parents[user, beam]], int(added[user, beam])] for beam in range(n_beams)]
            for user in range(len(lengths))
        ]
        for user in range(len(lengths)):
            embedded = tiger.token_embedding(torch.tensor(prefixes[user]))
            own = states[user : user + 1].expand(n_beams, -1, -1)
            expected = tiger.decoder(embedded, own, mask[user : user + 1].expand(n_beams, -1))
            assert_close(found[user], expected[:, -1], **TOLERANCE)


def test_a_surplus_weight_is_named(tiger: TIGER) -> None:
    state = tiger.transformers_state_dict()
    state["decoder.block.9.layer.0.SelfAttention.q.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"1 weights more than this model.*decoder\.block\.9"):
        tiger.load_transformers_state_dict(state)
