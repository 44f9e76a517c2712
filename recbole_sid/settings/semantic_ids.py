"""Keys that decide the semantic IDs, those of features and tokenizers aside, which these declare themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from recbole_sid.decoding.trie import LARGEST_SIZE
from recbole_sid.registry import COLLISIONS, FEATURES, TOKENIZERS, resolve
from recbole_sid.settings.declared import Settings, declare


def _tokenizers() -> Iterable[str]:
    return (*TOKENIZERS, "file")


@dataclass(frozen=True)
class SemanticIDSettings(Settings):
    """How items get their semantic IDs: all of these are shared by a student and its teacher."""

    semantic_ids_path: str | None = declare(
        None,
        "Ready-made semantic IDs of any format (docs/formats.md); empty: built from the keys below and reused.",
        file=True,
    )
    features: list[str] | str = declare(
        ["collaborative"],
        "Item features to concatenate: collaborative, text, file.",
        choices=lambda: FEATURES,
    )
    feature_normalize: str | list[str] = declare(
        "scale", "scale, standard, rows or none; one for all features, or one for each."
    )
    feature_pca: int | None = declare(
        None,
        "Reduce the concatenated features to this dimension, fitted on training items; empty: no PCA.",
    )
    feature_whiten: bool = declare(False, "Scale the PCA's components to variance 1.")
    tokenizer: str = declare(
        "rq_kmeans",
        "rq_kmeans, rq_kmeans_balanced, rq_vae, faiss_rq, opq, random (the control) or file (that of "
        "semantic_ids_path).",
        choices=_tokenizers,
    )
    codebook_sizes: list[int] = declare(
        [256, 256, 256], "Codes per level; any length, sizes may differ.", most=LARGEST_SIZE
    )
    collision: str = declare(
        "rank",
        "Items of equal codes: rank (a further level, from 0), nearest, sinkhorn or keep.",
        choices=lambda: COLLISIONS,
    )
    rank_size: int | None = declare(
        None, "Size of the rank level, with headroom for new items; empty: as large as needed."
    )


def semantic_id_settings() -> list[type[Settings]]:
    """Return the declarations of all keys that may decide semantic IDs: the general ones, features', tokenizers'."""
    kinds = [resolve(FEATURES, name, "feature") for name in FEATURES]
    kinds += [resolve(TOKENIZERS, name, "tokenizer") for name in TOKENIZERS]
    return [SemanticIDSettings, *dict.fromkeys(kind.settings for kind in kinds)]
