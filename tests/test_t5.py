"""Our T5 is transformers' T5ForConditionalGeneration; its inference forms give the same, and are never stale."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.testing import assert_close
from transformers import T5Config, T5ForConditionalGeneration

from recbole_sid.errors import InputError
from recbole_sid.fast import t5 as t5_inference
from recbole_sid.fast import t5_parts
from recbole_sid.fast.t5 import T5Past
from recbole_sid.model.tiger import TIGER
from recbole_sid.nn.packing import Packed, Packing
from recbole_sid.nn.t5 import Attention, T5DecoderCache, T5Sizes

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


def test_attention_that_drops_hardly_anything_is_attention() -> None:
    """Training with dropout goes another way than inference, on the CPU."""
    torch.manual_seed(3)
    attention = Attention(T5Sizes(10, d_model=16, n_heads=3, d_kv=4, dropout=2e-5))
    x, states, bias = torch.randn(4, 5, 16), torch.randn(4, 7, 16), torch.randn(4, 3, 5, 7)
    bias[:, :, :, 5:] = -torch.inf
    expected = attention.eval()(x, states, bias)
    assert_close(attention.train()(x, states, bias), expected, atol=1e-4, rtol=1e-4)
    attention.dropout.p = 0.5
    assert not torch.allclose(attention(x, states, bias), expected, atol=1e-2)


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
    batch = next(batch for batch in train if len(batch["item_length"].unique()) > 1)  # with padding
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


NATURAL = [14, 6, 42, 6, 82, 30, 14, 10]


@pytest.mark.parametrize("lengths", [NATURAL, [34], [12, 12, 12], [2, 2, 2], [150, 3]])
def test_packed_states_equal_transformers(
    tiger: TIGER, reference: T5ForConditionalGeneration, lengths: list[int]
) -> None:
    tokens = padded_tokens(tiger, lengths)
    mask = tokens != 0
    expected = reference.encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
    packed = tiger.eval().encoder.packed(tokens, mask)
    assert len(packed.values) == sum(lengths)
    assert not packed.values.requires_grad
    assert_close(packed.padded(), expected * mask[..., None], **TOLERANCE)


@pytest.mark.parametrize("rows", [1, 7, 50, 10**6])
@pytest.mark.parametrize("lengths", [NATURAL, [20] * 6])
def test_chunks_do_not_change_packed_states(
    tiger: TIGER, monkeypatch: pytest.MonkeyPatch, rows: int, lengths: list[int]
) -> None:
    tokens = padded_tokens(tiger, lengths)
    monkeypatch.setattr(t5_parts, "CPU_CHUNK_ROWS", rows)
    expected = tiger.eval().encoder(tokens, tokens != 0)[tokens != 0]
    assert_close(in_batch_order(tiger.encoder.packed(tokens, tokens != 0)), expected, **TOLERANCE)


def test_a_vocabulary_too_large_for_a_table_is_computed(tiger: TIGER, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = padded_tokens(tiger, NATURAL)
    monkeypatch.setattr(t5_inference, "MAX_TABLE_ROWS", tiger.vocabulary.size - 1)
    expected = tiger.eval().encoder(tokens, tokens != 0)[tokens != 0]
    assert tiger.encoder.inference_form().table is None
    assert_close(in_batch_order(tiger.encoder.packed(tokens, tokens != 0)), expected, **TOLERANCE)


def test_bfloat16_products_are_close_and_keep_float32_states(tiger: TIGER) -> None:
    tokens = padded_tokens(tiger, NATURAL)
    mask = tokens != 0
    exact = tiger.eval().encoder.packed(tokens, mask).values
    tiger.encoder.inference_dtype = torch.bfloat16
    rounded = tiger.encoder.packed(tokens, mask).values
    error = (rounded - exact).norm() / exact.norm()
    assert rounded.dtype == torch.float32
    assert 1e-4 < error < 0.05
    # The parameters, and what is trained, stay as they were.
    assert all(parameter.dtype == torch.float32 for parameter in tiger.parameters())


def test_an_unsuitable_inference_dtype_is_refused(tiger: TIGER) -> None:
    with pytest.raises(InputError, match=r"torch\.float16"):
        tiger.encoder.inference_dtype = torch.float16


def test_autocast_does_not_reach_the_inference_forms(tiger: TIGER) -> None:
    tokens = padded_tokens(tiger, NATURAL)
    mask = tokens != 0
    states = tiger.eval().encoder.packed(tokens, mask).padded()
    embedded = tiger.token_embedding(tokens[:, :3]).detach()
    expected, _ = T5DecoderCache(tiger.decoder, states, mask).step(T5Past(()), embedded, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(tiger.encoder.packed(tokens, mask).padded(), states, **TOLERANCE)
        found, _ = T5DecoderCache(tiger.decoder, states, mask).step(T5Past(()), embedded, None)
    assert_close(found, expected, **TOLERANCE)


def optimizer_step(model: TIGER) -> None:
    tokens = padded_tokens(model, [6, 4])
    model.encoder(tokens, tokens != 0).square().sum().backward()
    torch.optim.AdamW(model.encoder.parameters(), lr=0.1).step()


def load_other_weights(model: TIGER) -> None:
    model.load_state_dict({name: value * 0.9 for name, value in model.state_dict().items()})


def assign_other_weights(model: TIGER) -> None:
    model.load_state_dict({name: value * 0.9 for name, value in model.state_dict().items()}, assign=True)


def round_trip_through_bfloat16(model: TIGER) -> None:
    model.to(torch.bfloat16).to(torch.float32)


def write_past_the_version_counter(model: TIGER) -> None:
    model.train()
    for parameter in model.parameters():
        parameter.detach().numpy()[...] *= 0.9
    model.eval()


CHANGES = [
    optimizer_step,
    load_other_weights,
    assign_other_weights,
    round_trip_through_bfloat16,
    write_past_the_version_counter,
]


@pytest.mark.parametrize("change", CHANGES)
def test_prepared_forms_are_never_stale(tiger: TIGER, change: Callable[[TIGER], None]) -> None:
    tokens = padded_tokens(tiger, [14, 6, 30])
    mask = tokens != 0
    before = in_batch_order(tiger.eval().encoder.packed(tokens, mask))
    change(tiger)
    found = in_batch_order(tiger.encoder.packed(tokens, mask))
    assert (found - before).norm() / before.norm() > 1e-4
    assert_close(found, tiger.encoder(tokens, mask)[mask].detach(), **TOLERANCE)


def test_the_decoders_prepared_form_is_never_stale(tiger: TIGER) -> None:
    tiger.eval()
    mask = torch.ones(2, 5, dtype=torch.bool)
    states = torch.randn(2, 5, SIZES["d_model"])
    embedded = torch.randn(2, 1, SIZES["d_model"])

    def decode() -> torch.Tensor:
        return T5DecoderCache(tiger.decoder, states, mask).step(T5Past(()), embedded, None)[0]

    before = decode()
    load_other_weights(tiger)
    assert not torch.allclose(decode(), before, rtol=1e-3)
    assert_close(decode(), tiger.decoder(embedded, states, mask).detach(), **TOLERANCE)


def test_copies_have_their_own_prepared_forms(tiger: TIGER) -> None:
    tokens = padded_tokens(tiger, [14, 6, 30])
    mask = tokens != 0
    names = set(tiger.state_dict())
    expected = in_batch_order(tiger.eval().encoder.packed(tokens, mask))
    assert set(tiger.state_dict()) == names
    twins = copy.deepcopy(tiger.encoder), pickle.loads(pickle.dumps(tiger.encoder))
    load_other_weights(tiger)
    for twin in twins:
        assert_close(in_batch_order(twin.packed(tokens, mask)), expected, **TOLERANCE)


def test_nothing_but_the_cpu_waits_for_a_value(tiger: TIGER) -> None:
    # Tensors on the meta device have no values to read.
    tiger.eval().to("meta")
    tokens = torch.zeros(3, 9, dtype=torch.int64, device="meta")
    mask = tokens != 0
    states = tiger.encoder(tokens, mask)
    assert tiger.decoder(states[:, :2], states, mask).shape == (3, 2, SIZES["d_model"])
    cache = T5DecoderCache(tiger.decoder, states, mask)
    _, past = cache.step(cache.start(), states[:, :1], None)
    decoded, _ = cache.step(past, states[:, :4], tokens[:, :4])
    assert decoded.shape == (3, 4, SIZES["d_model"])


def in_batch_order(packed: Packed) -> torch.Tensor:
    """Return packed values by row of the batch, then by position."""
    return packed.values[packed.packing.index.argsort()]


def read_padded(cache: T5DecoderCache, states: torch.Tensor, packing: Packing) -> None:
    """Stand in for the CPU's way of reading the encoder states by that of other devices."""
    mask = torch.zeros(packing.shape[0] * packing.shape[1], dtype=torch.bool)
    mask[packing.index] = True
    cache._read_padded(states, mask.view(packing.shape))


class Prefixes:
    """Beams as token lists; what the cache must have decoded for them, by transformers."""

    def __init__(self, reference: T5ForConditionalGeneration, states: torch.Tensor, mask: torch.Tensor) -> None:
        self.reference, self.states, self.mask = reference, states, mask
        self.beams = [[[0]] for _ in states]

    def extended(self, parents: torch.Tensor, added: torch.Tensor) -> Prefixes:
        other = Prefixes(self.reference, self.states, self.mask)
        other.beams = [
            [[*self.beams[user][parent], token] for parent, token in zip(*pair, strict=True)]
            for user, pair in enumerate(zip(parents.tolist(), added.tolist(), strict=True))
        ]
        return other

    def decoded(self) -> torch.Tensor:
        rows = []
        for user, beams in enumerate(self.beams):
            own = self.states[user : user + 1].expand(len(beams), -1, -1)
            own_mask = self.mask[user : user + 1].expand(len(beams), -1)
            rows.append(
                self.reference.decoder(
                    input_ids=torch.tensor(beams), encoder_hidden_states=own, encoder_attention_mask=own_mask.long()
                ).last_hidden_state[:, -1]
            )
        return torch.stack(rows)


@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 7, 512])
@pytest.mark.parametrize("lengths", [[9, 30, 2, 9], [6, 6, 6]])
@pytest.mark.parametrize("read", [T5DecoderCache._read_packed, read_padded])
def test_cached_steps_with_reordered_beams_equal_transformers(
    tiger: TIGER,
    reference: T5ForConditionalGeneration,
    monkeypatch: pytest.MonkeyPatch,
    read: Callable[..., None],
    lengths: list[int],
    chunk: int,
) -> None:
    monkeypatch.setattr(T5DecoderCache, "_read_packed", read)
    monkeypatch.setattr(t5_parts, "CPU_CHUNK_ROWS", chunk)
    tiger.eval()
    tokens = padded_tokens(tiger, lengths)
    mask = tokens != 0
    states = tiger.encoder(tokens, mask)
    cache = T5DecoderCache(tiger.decoder, states, mask)
    generator = torch.Generator().manual_seed(3)

    prefixes = Prefixes(reference.eval(), states, mask)
    start = torch.zeros(len(lengths), 1, dtype=torch.int64)
    found, past = cache.step(cache.start(), tiger.token_embedding(start), None)
    assert_close(found, prefixes.decoded(), **TOLERANCE)
    n_before = 1
    for n_beams in (4, 6, 3, 5):  # changes at every step
        # Each past is extended twice: the first extension must not disturb the second.
        for _ in range(2):
            parents = torch.randint(n_before, (len(lengths), n_beams), generator=generator)
            added = torch.randint(1, tiger.vocabulary.size, (len(lengths), n_beams), generator=generator)
            found, extended = cache.step(past, tiger.token_embedding(added), parents)
            longer = prefixes.extended(parents, added)
            assert_close(found, longer.decoded(), **TOLERANCE)
        past, prefixes, n_before = extended, longer, n_beams

    added = torch.randint(1, tiger.vocabulary.size, (len(lengths), n_before), generator=generator)
    found, _ = cache.step(past, tiger.token_embedding(added), None)
    stay = torch.arange(n_before).expand(len(lengths), -1)
    assert_close(found, prefixes.extended(stay, added).decoded(), **TOLERANCE)


@torch.no_grad()
def test_bfloat16_decoding_is_close(tiger: TIGER) -> None:
    tokens = padded_tokens(tiger, [9, 30, 2])
    mask = tokens != 0
    states, embedded = tiger.eval().encoder(tokens, mask), tiger.token_embedding(tokens[:, :2])
    parents = torch.tensor([[1, 0], [1, 1], [0, 0]])

    def decode() -> torch.Tensor:
        cache = T5DecoderCache(tiger.decoder, states, mask)
        _, past = cache.step(cache.start(), embedded, None)
        return cache.step(past, embedded, parents)[0]

    exact = decode()
    tiger.decoder.inference_dtype = torch.bfloat16
    assert 1e-4 < (decode() - exact).norm() / exact.norm() < 0.05


def test_a_surplus_weight_is_named(tiger: TIGER) -> None:
    state = tiger.transformers_state_dict()
    state["decoder.block.9.layer.0.SelfAttention.q.weight"] = torch.zeros(1)
    with pytest.raises(InputError, match=r"1 weights more than this model.*decoder\.block\.9"):
        tiger.load_transformers_state_dict(state)
