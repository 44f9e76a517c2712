"""Forms of models that read histories token by token: SIDMLP, and SIDMLPPlusPlus with ``encoder: token``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_sid.errors import InputError
from recbole_sid.exporting.code_models import Arrays, array, form_of_codes, linear, norm, stacked
from recbole_sid.exporting.forms import Form
from recbole_sid.exporting.items import form_of_item_model
from recbole_sid.fast.t5 import EncoderLayer
from recbole_sid.fast.t5_parts import FeedForwardWeights, eps, folded, gain, transposed, unit_rows
from recbole_sid.nn.item_encoder import ItemEncoder
from recbole_sid.nn.t5 import T5Encoder
from recbole_sid.nn.token_encoder import MLPEncoder


@torch.no_grad()
def form_of_student(model: Any, config: Any, dataset: Any) -> Form:
    """Return the form of a SIDMLP or a SIDMLPPlusPlus, whatever its encoder."""
    encoder = model.history_encoder
    if isinstance(encoder, ItemEncoder):
        return form_of_item_model(model)
    if model.vocabulary.n_user_tokens > 1:
        raise InputError(
            f"n_user_tokens={model.vocabulary.n_user_tokens}: a model that reads who the user is cannot be exported, "
            "as requests say no user; train it with n_user_tokens=1."
        )
    arrays, settings = form_of_codes(model)
    if isinstance(encoder, T5Encoder):
        engine, (of_encoder, sizes) = "t5", _t5(encoder, model)
    elif isinstance(encoder, MLPEncoder):
        engine, (of_encoder, sizes) = "mlp", _mlp(encoder, model)
    else:
        raise InputError(f"{type(model).__name__} with a {type(encoder).__name__} cannot be exported.")
    return Form(engine, {**arrays, **of_encoder}, {**settings, **sizes})


def _longest(model: Any) -> int:
    return 2 + model.max_seq_length * model.vocabulary.n_levels


def _t5(encoder: T5Encoder, model: Any) -> tuple[Arrays, dict[str, Any]]:
    """Return the encoder's weights with its norms' gains folded in, always of float32."""
    layers = [
        EncoderLayer(
            folded(block.attention_norm, [block.attention.q, block.attention.k, block.attention.v], torch.float32),
            transposed(block.attention.o, torch.float32),
            FeedForwardWeights.of(block.feed_forward_norm, block.feed_forward, torch.float32),
        )
        for block in encoder.typed_blocks
    ]
    embedding = encoder.embedding.weight.detach().float()
    normed = unit_rows(embedding, eps(encoder.norm), out=torch.empty_like(embedding))
    among = encoder.relative_bias.among(_longest(model))[0]
    after, before = among[:, 0], among[:, :, 0]
    arrays = {
        "encoder.embedding": array(embedding),
        "encoder.first_qkv": array(normed @ layers[0].qkv),
        # Of keys before their queries, at the same place, and after them.
        "encoder.bias": array(torch.cat([before.flip(1), after[:, 1:]], dim=1)),
        "encoder.gain": array(gain(encoder.norm)),
        "encoder.eps": np.array([eps(encoder.norm)], np.float32),
    }
    of_layers = stacked(
        [
            {
                "output": array(layer.output.T),
                "wide": array(layer.feed_forward.wi.T),
                "narrow": array(layer.feed_forward.wo.T),
            }
            for layer in layers
        ]
    )
    inner3, d_model = layers[0].qkv.shape[1], len(layers[0].qkv)
    qkv = [array(layer.qkv.T) for layer in layers[1:]]  # that of the first is a table over tokens
    arrays["encoder.qkv"] = np.stack(qkv) if qkv else np.empty((0, inner3, d_model), np.float32)
    arrays |= {f"encoder.{name}": value for name, value in of_layers.items()}
    sizes = {
        "encoder_layers": len(layers),
        "n_heads": encoder.typed_blocks[0].attention.n_heads,
        "inner_dim": layers[0].output.shape[0],
        "d_ff": layers[0].feed_forward.wi.shape[1],
    }
    return arrays, sizes


def _mlp(encoder: MLPEncoder, model: Any) -> tuple[Arrays, dict[str, Any]]:
    longest, d_model = _longest(model), encoder.embedding.embedding_dim
    arrays = {
        "encoder.embedding": array(encoder.embedding.weight),
        "encoder.position": array(encoder.position.weight[:longest]),
        **norm("encoder.norm", encoder.norm),
    }
    ffn_size = 1
    for number, (mean, layer) in enumerate(encoder._layers()):
        arrays[f"encoder.{number}.weights"] = array(mean.weights(torch.arange(longest)).float())
        for role, mlp in enumerate(layer):
            first: Any = mlp[0]
            at, ffn_size = f"encoder.{number}.{role}", first.out_features
            arrays |= {f"{at}.own": array(first.weight[:, :d_model])}
            arrays |= {
                f"{at}.shared.weight": array(first.weight[:, d_model:]),
                f"{at}.shared.bias": array(first.bias),
            }
            arrays |= {**norm(f"{at}.norm", mlp[1]), **linear(f"{at}.narrow", mlp[-1])}
    sizes = {
        "encoder_layers": len(encoder.layers),
        "encoder_ffn_size": ffn_size,
        "encoder_positions": "end" if encoder.counts_from_end else "start",
        "encoder_mixing": "mean" if arrays["encoder.0.weights"].shape[1] == 1 else "weighted",
    }
    return arrays, sizes
