"""What an encoder of histories has to have, and what it gets."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from recbole_sid.errors import InputError
from recbole_sid.nn.causal_transformer import CausalSizes, CausalTransformer
from recbole_sid.nn.history_encoder import HistoryEncoder
from recbole_sid.nn.item_encoder import ItemEncoder
from recbole_sid.nn.t5 import T5Encoder, T5Sizes
from recbole_sid.nn.token_encoder import MLPEncoder
from recbole_sid.nn.vocabulary import PAD, TokenVocabulary

VOCABULARY = TokenVocabulary([4, 3])
# Histories of two, one and no known item.
TOKENS = torch.tensor([[8, 1, 5, 3, 7, 9], [8, 4, 6, 9, 0, 0], [8, 9, 0, 0, 0, 0]])


class Sums(HistoryEncoder):
    """The least that an encoder needs."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY.size, 3)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return (self.embedding(tokens) * mask.unsqueeze(-1)).cumsum(1)


def encoders() -> list[HistoryEncoder]:
    torch.manual_seed(0)
    table = nn.Embedding(VOCABULARY.size, 8)
    t5 = T5Sizes(VOCABULARY.size, d_model=8, d_ff=8, n_heads=2, d_kv=4, encoder_layers=1, decoder_layers=1, dropout=0.1)
    causal = CausalSizes(VOCABULARY.size, d_model=8, d_ff=8, n_heads=2, n_layers=1)
    made: list[HistoryEncoder] = [
        Sums(),
        T5Encoder(t5),
        CausalTransformer(causal, VOCABULARY.eos),
        MLPEncoder(table, 2, VOCABULARY.eos, n_positions=6, n_layers=1, ffn_size=8, dropout=0.1),
        ItemEncoder(table, 2, 1, 7, max_items=2, n_layers=1, ffn_size=8, mixing="position", dropout=0.1),
    ]
    return [encoder.eval() for encoder in made]


@pytest.mark.parametrize("encoder", encoders(), ids=lambda encoder: type(encoder).__name__)
@torch.no_grad()
def test_packed_states_are_those_of_forward(encoder: HistoryEncoder) -> None:
    mask = TOKENS != PAD
    states, kept = encoder(TOKENS, mask), encoder.state_mask(TOKENS)
    assert states.shape[:2] == kept.shape
    packed = encoder.packed(TOKENS, mask)
    assert packed.packing.shape == tuple(kept.shape)
    assert_close(packed.padded()[kept], states[kept], rtol=1e-5, atol=1e-5)
    assert len(packed.values) == int(kept.sum())


def test_what_an_encoder_need_not_say() -> None:
    encoder = Sums()
    assert not encoder.skips_padding
    assert not encoder.static_shapes
    encoder.inference_dtype = torch.float32
    with pytest.raises(InputError, match="Sums computes in float32 only"):
        encoder.inference_dtype = torch.bfloat16
    assert encoder.inference_dtype == torch.float32
