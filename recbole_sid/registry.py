"""Where names in property files meet classes: what is added is one line here, or in a package of its own.

Values are ``"module:attribute"`` and are imported on first use. Other packages add theirs without a change here, as
entry points of the groups ``recbole_sid.models``, ``recbole_sid.tokenizers`` and so on, or at run time, as in
``registry.MODELS["Mine"] = "my_module:Mine"``. How: docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recbole_sid.capabilities import Capabilities, capabilities_of
from recbole_sid.errors import InputError, first_line, nearest
from recbole_sid.util.installed import imported, with_installed

_MODELS = {
    "TIGER": "recbole_sid.model.tiger:TIGER",
    "CausalSID": "recbole_sid.model.causal:CausalSID",
    "SIDMLP": "recbole_sid.model.sid_mlp:SIDMLP",
    "SIDMLPPlusPlus": "recbole_sid.model.sid_mlp_pp:SIDMLPPlusPlus",
    "SIDMLPHybrid": "recbole_sid.model.sid_mlp_hybrid:SIDMLPHybrid",
    "TransitionMemory": "recbole_sid.model.transition_memory:TransitionMemory",
    "AdaptiveEnsemble": "recbole_sid.generalization.ensemble:AdaptiveEnsemble",
}

_FEATURES = {
    "collaborative": "recbole_sid.features.collaborative:CollaborativeFeatures",
    "text": "recbole_sid.features.text:TextFeatures",
    "file": "recbole_sid.features.file:FileFeatures",
}

_TOKENIZERS = {
    "rq_kmeans": "recbole_sid.tokenizer.rq_kmeans:ResidualKMeans",
    "rq_kmeans_balanced": "recbole_sid.tokenizer.rq_kmeans_balanced:BalancedResidualKMeans",
    "rq_vae": "recbole_sid.tokenizer.rq_vae:RQVAE",
    "faiss_rq": "recbole_sid.tokenizer.faiss_rq:FaissResidualQuantizer",
    "opq": "recbole_sid.tokenizer.opq:OPQ",
    "random": "recbole_sid.tokenizer.random_codes:RandomCodes",
}

_COLLISIONS = {
    "rank": "recbole_sid.tokenizer.collisions:rank",
    "sinkhorn": "recbole_sid.tokenizer.reassign:sinkhorn",
    "nearest": "recbole_sid.tokenizer.reassign:nearest",
    "keep": "recbole_sid.tokenizer.collisions:keep",
}

_FORMATS = {
    "json": "recbole_sid.semantic_ids.formats.json_files:PLAIN",
    "index": "recbole_sid.semantic_ids.formats.json_files:INDEX",
    "sem_ids": "recbole_sid.semantic_ids.formats.json_files:SEM_IDS",
    "tensor": "recbole_sid.semantic_ids.formats.tensor_files:TENSOR",
    "csv": "recbole_sid.semantic_ids.formats.column_files:CSV",
    "parquet": "recbole_sid.semantic_ids.formats.column_files:PARQUET",
}

_BREAKDOWNS = {
    "history": "recbole_sid.comparison.breakdown:HISTORY",
    "popularity": "recbole_sid.comparison.breakdown:POPULARITY",
    "support": "recbole_sid.comparison.breakdown:SUPPORT",
}

MODELS = with_installed("models", _MODELS)
FEATURES = with_installed("features", _FEATURES)
TOKENIZERS = with_installed("tokenizers", _TOKENIZERS)
COLLISIONS = with_installed("collisions", _COLLISIONS)
FORMATS = with_installed("formats", _FORMATS)
METRICS = with_installed("metrics", {})  # beside RecBole's
BREAKDOWNS = with_installed("breakdowns", _BREAKDOWNS)


def resolve(registry: Mapping[str, str], name: str, what: str) -> Any:
    """Import what `registry` holds under `name`.

    Raises:
        InputError: if `name` is not registered (names the nearest known one), or cannot be imported.
    """
    if name not in registry:
        raise InputError(f"Unknown {what} '{name}'{nearest(name, registry)}; known: {', '.join(sorted(registry))}.")
    try:
        return imported(registry[name])
    except (ImportError, AttributeError) as error:
        raise InputError(f"The {what} '{name}' ({registry[name]}) cannot be imported ({first_line(error)}).") from error


def get_model(name: str) -> type:
    """Return the model class `name`: one of ours, else RecBole's (recbole/utils/utils.py `get_model`)."""
    if name in MODELS:
        return resolve(MODELS, name, "model")
    from recbole.utils import get_model as recbole_get_model

    from recbole_sid.compat import keeping_anomaly_mode  # not at the top: names are known without RecBole

    try:
        with keeping_anomaly_mode():
            return recbole_get_model(name)
    except (ValueError, AttributeError, ImportError) as error:
        known = {known.lower() for known in _recbole_model_names()}
        if isinstance(error, ImportError) and name.lower() in known:  # LightGBM needs a package RecBole does not
            raise InputError(f"RecBole's {name} cannot be imported ({first_line(error)}).") from error
        raise InputError(
            f"Unknown model '{name}'{nearest(name, [*MODELS, *_recbole_model_names()])}; "
            f"ours are {', '.join(MODELS)}, and every RecBole model works by its class name."
        ) from error


def is_ours(model_class: type) -> bool:
    """Say whether a model is made for this package, by us or by others, not one of RecBole's."""
    return issubclass(model_class, Capabilities)


def get_trainer(config: Any) -> type:
    """Return the trainer class of a run: what its model names, else RecBole's."""
    model_class = config.model_class
    own = capabilities_of(model_class).trainer_with(config)
    if own:
        return imported(own)
    from recbole.utils import get_trainer as recbole_get_trainer

    return recbole_get_trainer(config["MODEL_TYPE"], model_class.__name__)


def _recbole_model_names() -> list[str]:
    from pathlib import Path

    import recbole

    return [path.stem for path in (Path(recbole.__file__).parent / "properties" / "model").glob("*.yaml")]
