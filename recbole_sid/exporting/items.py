"""Forms of models that read histories item by item: SIDMLPPlusPlus with ``encoder: item``, SIDMLPHybrid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_sid.exporting.code_models import Arrays, array, form_of_codes, linear, norm, stacked
from recbole_sid.exporting.forms import Form
from recbole_sid.nn.item_encoder import (
    HEADS,
    ItemEmbedding,
    ItemEncoder,
    MixingLayer,
    PositionMixing,
    TrainedItemEmbedding,
)


@torch.no_grad()
def form_of_hybrid(model: Any, config: Any, dataset: Any) -> Form:
    """Return the form of a SIDMLPHybrid."""
    return form_of_item_model(model)


@torch.no_grad()
def form_of_item_model(model: Any) -> Form:
    """Return the form of a model whose `history_encoder` is an `ItemEncoder`."""
    arrays, settings = form_of_codes(model)
    encoder: ItemEncoder = model.history_encoder
    arrays |= _encoder(encoder, model)
    layers = [layer for layer in encoder.layers if isinstance(layer, MixingLayer)]
    settings |= {
        "item_layers": len(layers),
        "item_ffn_size": layers[0].mlp[0].out_features if layers else 1,
        "item_mixing": "attention" if layers and not isinstance(layers[0].mixing, PositionMixing) else "position",
        "item_norm": isinstance(encoder.items, TrainedItemEmbedding),
    }
    return Form("items", arrays, settings)


def _encoder(encoder: ItemEncoder, model: Any) -> Arrays:
    items = encoder.items
    arrays = {
        "encoder.codes": _codes(items, model),
        "encoder.position": array(items.position.weight + items.merge.bias),
        **norm("encoder.norm", encoder.norm),
    }
    if isinstance(items, TrainedItemEmbedding):
        arrays |= norm("encoder.item_norm", items.norm)
    layers = stacked([_layer(layer) for layer in encoder.layers if isinstance(layer, MixingLayer)])
    return {**arrays, **{f"encoder.{name}": value for name, value in layers.items()}}


def _codes(items: ItemEmbedding, model: Any) -> np.ndarray:
    """Return [sum of sizes, d]: each code's share of the merged vector, level by level."""
    sizes, offsets = model.vocabulary.codebook_sizes, model.vocabulary.level_offsets
    shares = items.merge.weight.unflatten(1, (-1, items.embedding.embedding_dim)).unbind(1)
    tables = [
        items.embedding.weight[offset : offset + size] @ share.T
        for offset, size, share in zip(offsets, sizes, shares, strict=True)
    ]
    return array(torch.cat(tables))


def _layer(layer: MixingLayer) -> Arrays:
    mixing = layer.mixing
    arrays = {
        **norm("mixing_norm", layer.mixing_norm),
        **norm("mlp_norm", layer.mlp_norm),
        **linear("wide", layer.mlp[0]),
        **linear("narrow", layer.mlp[-1]),
    }
    if isinstance(mixing, PositionMixing):
        return {**arrays, "matrix": array(mixing.weight), **linear("mean", mixing.mean)}
    d_model = mixing.out.out_features
    scale = torch.ones(3 * d_model, 1)
    scale[:d_model] = (d_model // HEADS) ** -0.5  # of queries
    qkv = {
        "qkv.weight": array(mixing.qkv.weight * scale),
        "qkv.bias": array(mixing.qkv.bias * scale[:, 0]),
    }
    return {**arrays, **qkv, **linear("out", mixing.out)}
