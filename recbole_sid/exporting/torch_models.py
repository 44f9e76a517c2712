"""The forms of TIGER and CausalSID: their weights as `recbole_sid.serving.engines.torch_models` reads them."""

from __future__ import annotations

from typing import Any

import numpy as np

from recbole_sid.errors import InputError
from recbole_sid.exporting.code_models import array
from recbole_sid.exporting.forms import Form


def form_of_tiger(model: Any, config: Any, dataset: Any) -> Form:
    """Return the form of a TIGER.

    Raises:
        InputError: if it reads who the user is.
    """
    sizes = ("d_model", "d_ff", "n_heads", "d_kv", "encoder_layers", "decoder_layers")
    engine = "tiger_causal_encoder" if model.sizes.causal_encoder else "tiger"
    return _form(engine, model, ("encoder.", "decoder."), {name: int(config[name]) for name in sizes})


def form_of_causal(model: Any, config: Any, dataset: Any) -> Form:
    """Return the form of a CausalSID; raises as `form_of_tiger`."""
    sizes = ("d_model", "d_ff", "n_heads", "n_layers")
    return _form("causal", model, ("transformer.",), {name: int(config[name]) for name in sizes})


def _form(engine: str, model: Any, networks: tuple[str, ...], sizes: dict[str, int]) -> Form:
    if model.vocabulary.n_user_tokens > 1:
        raise InputError(
            f"n_user_tokens={model.vocabulary.n_user_tokens}: this {type(model).__name__} reads who the user is, which "
            "a bundle is not told; train it with n_user_tokens=1."
        )
    arrays = {f"network.{name}": array(v) for name, v in model.state_dict().items() if name.startswith(networks)}
    trie = model.trie.arrays()
    arrays |= {f"trie.{name}": np.ascontiguousarray(values, np.int32) for name, values in trie.items()}
    if model.remembers:
        arrays |= {f"memory.{name}": array(values) for name, values in model.memory.state_dict().items()}
    return Form(
        engine,
        arrays,
        {
            "n_items": model.n_items,
            "max_history": model.max_seq_length,
            "beam_size": model.beam_size,
            "decoding": model.decoding,
            "normaliser": model.shared_among,
            "constrained": bool(model.constrained),
            "codebook_sizes": [int(size) for size in model.vocabulary.codebook_sizes],
            "memory": model.remembers,
            "memory_sharpness": float(model.sharpness),
            **sizes,
        },
    )
