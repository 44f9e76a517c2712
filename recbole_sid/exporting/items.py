"""Forms of models that read histories item by item: SIDMLPPlusPlus with ``encoder: item``, SIDMLPHybrid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_sid.exporting.code_models import Arrays, array, form_of_codes, linear, norm
from recbole_sid.exporting.forms import Form
from recbole_sid.nn.item_encoder import ItemEmbedding, ItemEncoder, MixingLayer, PositionMixing, TrainedItemEmbedding


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
    for number, layer in enumerate(encoder.layers):
        assert isinstance(layer, MixingLayer)
        arrays |= _layer(f"encoder.{number}", layer)
    return arrays


def _codes(items: ItemEmbedding, model: Any) -> np.ndarray:
    """Return [sum of sizes, d]: each code's share of the merged vector, level by level."""
    sizes, offsets = model.vocabulary.codebook_sizes, model.vocabulary.level_offsets
    shares = items.merge.weight.unflatten(1, (-1, items.embedding.embedding_dim)).unbind(1)
    tables = [
        items.embedding.weight[offset : offset + size] @ share.T
        for offset, size, share in zip(offsets, sizes, shares, strict=True)
    ]
    return array(torch.cat(tables))


def _layer(at: str, layer: MixingLayer) -> Arrays:
    mixing = layer.mixing
    arrays = {
        **norm(f"{at}.mixing_norm", layer.mixing_norm),
        **norm(f"{at}.mlp_norm", layer.mlp_norm),
        **linear(f"{at}.wide", layer.mlp[0]),
        **linear(f"{at}.narrow", layer.mlp[-1]),
    }
    if isinstance(mixing, PositionMixing):
        return {**arrays, f"{at}.mixing.matrix": array(mixing.weight), **linear(f"{at}.mixing.mean", mixing.mean)}
    return {**arrays, **linear(f"{at}.mixing.qkv", mixing.qkv), **linear(f"{at}.mixing.out", mixing.out)}
