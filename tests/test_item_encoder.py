"""The item-level encoder equals a loop over users in numpy, padded and packed, for any history length."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_sid.errors import InputError
from recbole_sid.nn.item_encoder import ItemEncoder
from recbole_sid.nn.vocabulary import PAD, TokenVocabulary

SIZES, MAX_ITEMS, WIDTH = (5, 3, 4), 7, 8
VOCABULARY = TokenVocabulary(SIZES, n_user_tokens=2)
MIXINGS = ["position", "attention"]


@pytest.fixture
def build() -> Callable[..., ItemEncoder]:
    """Return ``build(mixing, n_layers, fresh) -> ItemEncoder`` over a frozen table; random weights unless fresh."""

    def make(mixing: str = "position", n_layers: int = 2, fresh: bool = False) -> ItemEncoder:
        torch.manual_seed(0)
        embedding = nn.Embedding(VOCABULARY.size, WIDTH).requires_grad_(False)
        encoder = ItemEncoder(embedding, len(SIZES), 1, sum(SIZES), MAX_ITEMS, n_layers, 12, mixing, dropout=0.1)
        if not fresh:
            with torch.no_grad():
                for parameter in encoder.parameters():
                    parameter.normal_(0.2, 0.5)
        return encoder.eval()

    return make


def histories(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    """Return per user the codes [n_items, L], oldest first."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, SIZES, (length, len(SIZES))) for length in lengths]


def serialise(codes: list[np.ndarray], n_slots: int | None = None) -> torch.Tensor:
    """Return tokens int64 [B, 2 + n_slots * L]."""
    n_slots = n_slots or max(map(len, codes))
    items = torch.zeros(len(codes), n_slots, len(SIZES), dtype=torch.int64)
    for row, history in enumerate(codes):
        items[row, : len(history)] = VOCABULARY.code_tokens(torch.from_numpy(history))
    return VOCABULARY.serialise(items, torch.tensor([len(history) for history in codes]), torch.arange(len(codes)))


def encode(encoder: ItemEncoder, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return encoder(tokens, tokens != PAD)


def reference(encoder: ItemEncoder, codes: np.ndarray) -> np.ndarray:
    """Return the states [n_items, d] of one history, item by item, from the encoder's weights alone."""
    w = {name: value.double().numpy() for name, value in encoder.state_dict().items()}
    n_items, offsets = len(codes), [1, 1 + SIZES[0], 1 + SIZES[0] + SIZES[1]]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return w[f"{name}.weight"] @ x + w[f"{name}.bias"]

    def by_position(states: list[np.ndarray], name: str) -> list[np.ndarray]:
        mean = linear(np.mean(states, axis=0), f"{name}.mean")
        matrix = w[f"{name}.weight"]
        return [
            mean + sum(matrix[n_items - 1 - t, n_items - 1 - s] * states[s] for s in range(n_items))
            for t in range(n_items)
        ]

    def by_attention(states: list[np.ndarray], name: str) -> list[np.ndarray]:
        q, k, v = np.stack([linear(state, f"{name}.qkv") for state in states]).reshape(n_items, 3, 4, -1).swapaxes(0, 1)
        mixed = []
        for t in range(n_items):
            heads = []
            for head in range(4):
                weights = np.exp([q[t, head] @ k[s, head] / math.sqrt(WIDTH // 4) for s in range(n_items)])
                heads.append(weights @ v[:, head] / weights.sum())
            mixed.append(linear(np.concatenate(heads), f"{name}.out"))
        return mixed

    x = []
    for t, item in enumerate(codes):
        embedded = [w["items.embedding.weight"][offsets[level] + code] for level, code in enumerate(item)]
        x.append(linear(np.concatenate(embedded), "items.merge") + w["items.position.weight"][n_items - 1 - t])
    for layer in range(len(encoder.layers)):
        name = f"layers.{layer}"
        mix = by_position if f"{name}.mixing.mean.weight" in w else by_attention
        mixed = mix([norm(state, f"{name}.mixing_norm") for state in x], f"{name}.mixing")
        x = [state + more for state, more in zip(x, mixed, strict=True)]
        for t in range(n_items):
            hidden = linear(norm(x[t], f"{name}.mlp_norm"), f"{name}.mlp.0")
            hidden = np.array([0.5 * value * (1 + math.erf(value / math.sqrt(2))) for value in hidden])
            x[t] = x[t] + linear(hidden, f"{name}.mlp.2")
    return np.stack([norm(state, "norm") for state in x])


LENGTHS = [3, 1, MAX_ITEMS, 3, 5, 2]


@pytest.mark.parametrize("mixing", MIXINGS)
def test_states_equal_a_loop_over_users_and_are_zero_elsewhere(build: Callable[..., Any], mixing: str) -> None:
    encoder, codes = build(mixing), histories(LENGTHS)
    states = encode(encoder, serialise(codes)).double().numpy()
    assert states.shape == (len(codes), MAX_ITEMS, WIDTH)
    for row, history in enumerate(codes):
        np.testing.assert_allclose(states[row, : len(history)], reference(encoder, history), atol=2e-5)
        assert not states[row, len(history) :].any()


def test_the_mask_marks_items_and_neither_user_nor_end(build: Callable[..., Any]) -> None:
    tokens = serialise(histories(LENGTHS), MAX_ITEMS)
    assert build().state_mask(tokens).tolist() == [[slot < length for slot in range(MAX_ITEMS)] for length in LENGTHS]


@pytest.mark.parametrize("mixing", MIXINGS)
def test_padding_and_the_other_histories_change_nothing(build: Callable[..., Any], mixing: str) -> None:
    encoder, codes = build(mixing), histories([2, 4, 3])
    together = encode(encoder, serialise(codes, MAX_ITEMS))
    for row, history in enumerate(codes):
        alone = encode(encoder, serialise([history]))
        assert_close(together[row, : len(history)], alone[0], atol=2e-6, rtol=1e-5)


def test_an_older_item_moves_no_other(build: Callable[..., Any]) -> None:
    encoder = build(n_layers=0)
    (history,) = histories([5])
    states = encode(encoder, serialise([history, history[1:]]))
    assert torch.equal(states[0, 1:5], states[1, :4])
    assert not torch.equal(encode(encoder, serialise([history[:-1]]))[0], states[0, :4])  # a more recent one does


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("lengths", [LENGTHS, [4], [1, 1], [2, 2, 2]])
def test_packed_states_equal_the_padded(build: Callable[..., Any], mixing: str, lengths: list[int]) -> None:
    encoder, tokens = build(mixing), serialise(histories(lengths), MAX_ITEMS)
    with torch.no_grad():
        packed = encoder.packed(tokens, tokens != PAD)
    assert len(packed.values) == sum(lengths)
    assert_close(packed.padded(), encode(encoder, tokens), atol=1e-5, rtol=1e-5)


def test_packed_states_follow_the_weights(build: Callable[..., Any]) -> None:
    encoder, tokens = build(), serialise(histories(LENGTHS))

    def packed() -> torch.Tensor:
        with torch.no_grad():
            return encoder.packed(tokens, tokens != PAD).padded()

    seen = [packed()]
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=0.1)
    encoder(tokens, tokens != PAD).square().sum().backward()
    optimizer.step()
    seen.append(packed())
    assert_close(seen[-1], encode(encoder, tokens), atol=1e-5, rtol=1e-5)
    state = {name: value + 0.1 * torch.cos(7 * value) for name, value in encoder.state_dict().items()}
    encoder.load_state_dict(state)
    seen.append(packed())
    assert_close(seen[-1], encode(encoder, tokens), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        encoder.items.embedding.weight.mul_(-1)
    seen.append(packed())
    assert_close(seen[-1], encode(encoder, tokens), atol=1e-5, rtol=1e-5)
    encoder.double()
    assert packed().dtype == torch.float64
    assert all((before - after).abs().max() > 1e-2 for before, after in pairwise(seen))


@pytest.mark.parametrize("mixing", MIXINGS)
@pytest.mark.parametrize("fresh", [True, False])
def test_all_own_weights_learn_and_the_table_does_not(build: Callable[..., Any], mixing: str, fresh: bool) -> None:
    encoder, tokens = build(mixing, fresh=fresh).train(), serialise(histories([MAX_ITEMS, 3, 1]))
    encoder.items.embedding.requires_grad_(True)  # not even then
    states = encoder(tokens, tokens != PAD)
    (states * torch.randn_like(states)).sum().backward()
    for name, parameter in encoder.named_parameters():
        if name == "items.embedding.weight":
            assert parameter.grad is None
        else:
            assert parameter.grad is not None, name
            # A bias of keys adds the same to all scores of a query: softmax does not see it.
            rows = parameter.grad[:WIDTH] if name.endswith("qkv.bias") else parameter.grad
            assert (rows != 0).all(dim=-1).any(), name


@pytest.mark.parametrize("mixing", MIXINGS)
def test_a_fresh_layer_hardly_changes_its_input(build: Callable[..., Any], mixing: str) -> None:
    encoder = build(mixing, n_layers=1, fresh=True)
    x = torch.randn(6, MAX_ITEMS, WIDTH)
    change = encoder.layers[0](x, torch.ones(6, MAX_ITEMS, dtype=torch.bool)) - x
    assert 0 < change.norm() < 0.1 * x.norm()


class Operations(TorchDispatchMode):
    """Records the names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


# Shapes that depend on values, or values that the host reads: either waits for a GPU.
WAITING = {"nonzero", "_local_scalar_dense", "masked_select", "unique_consecutive", "repeat_interleave"}


@pytest.mark.parametrize("mixing", MIXINGS)
def test_forward_never_waits_for_values(build: Callable[..., Any], mixing: str) -> None:
    encoder, tokens = build(mixing), serialise(histories(LENGTHS))
    with Operations() as forward:
        encode(encoder, tokens)
    with Operations() as packed, torch.no_grad():
        encoder.packed(tokens, tokens != PAD)
    assert not forward.names & WAITING
    assert packed.names & WAITING  # the measure sees them


def test_width_that_does_not_split_into_heads_is_refused() -> None:
    with pytest.raises(InputError, match="width 6 do not split"):
        ItemEncoder(nn.Embedding(9, 6), 2, 1, 6, 4, 1, 8, "attention", 0.0)
