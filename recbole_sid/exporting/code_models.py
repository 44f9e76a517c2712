"""What forms of models share whose decoder is SID-MLP's: heads over codes, trie, memory, readout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from recbole_sid.decoding.trie import Trie
from recbole_sid.errors import InputError
from recbole_sid.fast.compiled_memory import transitions
from recbole_sid.fast.compiled_scorer import can_compile, compiled_heads, compiled_places, compiled_prefixes
from recbole_sid.fast.factorised import FactorisedHeads
from recbole_sid.memory import Memory
from recbole_sid.nn.item_head import ItemHead
from recbole_sid.nn.readout import Readout

Arrays = dict[str, np.ndarray]


def array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor's values, contiguous."""
    return tensor.detach().cpu().contiguous().numpy()


def linear(at: str, layer: Any) -> Arrays:
    """Return a linear map under names that begin with `at`: weight [outputs, inputs] and bias."""
    return {f"{at}.weight": array(layer.weight), f"{at}.bias": array(layer.bias)}


def norm(at: str, layer: Any) -> Arrays:
    """Return a LayerNorm under the name `at`: gain, shift and eps, [3, d]."""
    return {at: array(torch.stack([layer.weight, layer.bias, torch.full_like(layer.bias, layer.eps)]))}


def stacked(layers: Sequence[Arrays]) -> Arrays:
    """Return the arrays of all layers, of the same names, as one array of each name."""
    return {name: np.stack([layer[name] for layer in layers]) for name in layers[0]}


def form_of_codes(model: Any) -> tuple[Arrays, dict[str, Any]]:
    """Return the arrays and settings that `recbole_sid.serving.engines.code_ranking` reads, of `MLPRanking` models.

    Raises:
        InputError: if they decode in a way that has no compiled form.
    """
    item_head, share = getattr(model, "item_head", None), None
    has_heads = len(model.decoder.heads) > 0
    if has_heads and item_head is not None:
        share = float(model.shares[0])
        has_heads, item_head = share < 1, item_head if share > 0 else None  # one without a share says nothing
    item_candidates = getattr(model, "item_candidates", None) if item_head is not None and has_heads else None
    if item_candidates is not None and model.trie.n_levels < 2:
        raise InputError(
            f"item_candidates={item_candidates} cannot be exported where semantic IDs have one code: train without."
        )
    remembers = model.remembers
    arrays = {**trie_arrays(model.trie, model.n_items), **_readout(model.decoder.readout)}
    settings = {
        "n_items": model.n_items,
        "max_history": model.max_seq_length,
        "beam_size": model.beam_size,
        "decoding": model.decoding,
        "codebook_sizes": [int(size) for size in model.vocabulary.codebook_sizes],
        "d_model": model.token_embedding.embedding_dim,
        **_readout_settings(model.decoder.readout),
        "sid_heads": has_heads,
        "item_head": item_head is not None,
        "item_share": share if has_heads and item_head is not None else None,
        "memory": remembers,
    }
    if item_candidates is not None:
        settings["item_candidates"] = item_candidates
    if has_heads:
        arrays |= _heads(model)
        settings["head_hidden"] = arrays["heads.gain"].shape[1]
    if item_head is not None:
        arrays |= _item_head(item_head)
    if remembers:
        of_memory, numbers = form_of_memory(model.memory, model.max_seq_length)
        arrays |= of_memory
        settings |= {**numbers, "memory_sharpness": float(model.sharpness)}
    return arrays, settings


def form_of_memory(memory: Memory, longest: int) -> tuple[Arrays, Mapping[str, Any]]:
    """Return the arrays and settings of a memory, for histories of at most `longest` items."""
    numbers = memory.numbers
    found = transitions(memory, 1)
    arrays = {
        f"memory.{name}": getattr(found, name) for name in ("starts", "successors", "counts", "row_sums", "left_out")
    }
    return {name: np.ascontiguousarray(value) for name, value in arrays.items()}, {
        "memory_window": min(numbers.window, longest),
        "memory_window_decay": float(numbers.window_decay),
        "memory_pseudo_counts": float(numbers.pseudo_counts),
    }


def _heads(model: Any) -> Arrays:
    if model.normaliser != "children":
        raise InputError(
            f"normaliser={model.normaliser} cannot be exported: only normaliser=children has a compiled form."
        )
    heads = FactorisedHeads.of(model.decoder, model.token_embedding.weight, model.vocabulary.level_offsets)
    if not can_compile(heads):
        raise InputError("head_layers of more than 1 cannot be exported: they have no compiled form.")
    found = compiled_heads(heads, compiled_prefixes(model.trie))
    arrays = {f"heads.{name}": value for name, value in found._asdict().items() if not name.endswith("_start")}
    n_levels = len(found.gain)
    weight, bias = (array(part.unflatten(0, (n_levels, -1))) for part in (heads.user_weight, heads.user_bias))
    return {**arrays, "heads.user.weight": weight, "heads.user.bias": bias}


def trie_arrays(trie: Trie, n_items: int) -> Arrays:
    """Return a trie whose items are below `n_items`, flat."""
    prefixes, places = compiled_prefixes(trie), compiled_places(trie, n_items)
    arrays = {f"trie.{name}": value for name, value in prefixes._asdict().items() if name != "widest"}
    arrays |= {f"places.{name}": value for name, value in places._asdict().items()}
    whole = {"trie.start_at", "trie.code_at"}
    return {name: value.astype(np.int64 if name in whole else np.int32, copy=False) for name, value in arrays.items()}


def _readout(readout: Readout) -> Arrays:
    form = readout.absorbed.get(readout)
    wide, narrow = readout.ffn[0], readout.ffn[-1]
    return {
        **linear("readout.query", readout.query),
        "readout.keys": array(form.keys),
        "readout.values": array(form.values),
        **norm("readout.norm1", readout.norm1),
        **norm("readout.norm2", readout.norm2),
        **linear("readout.wide", wide),
        **linear("readout.narrow", narrow),
    }


def _readout_settings(readout: Readout) -> dict[str, Any]:
    wide = readout.ffn[0]
    assert isinstance(wide, nn.Linear)
    return {
        "attention_heads": readout.n_heads,
        "n_queries": readout.n_queries,
        "query_from_last": readout.reads_last,
        "ffn_size": wide.out_features,
    }


def _item_head(head: ItemHead) -> Arrays:
    return {
        "item_head.context": array(head.context.weight),
        **norm("item_head.norm", head.norm),
        "item_head.table": array(head.table),
        "item_head.items": array(head.items),
    }
