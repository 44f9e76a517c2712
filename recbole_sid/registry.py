"""Where names in property files meet classes. To add a model, trainer, tokenizer or feature, add one line here.

Values are ``"module:attribute"`` and are imported on first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from recbole_sid.compat import keeping_anomaly_mode
from recbole_sid.errors import InputError, first_line, nearest

MODELS = {
    "TIGER": "recbole_sid.model.tiger:TIGER",
    "CausalSID": "recbole_sid.model.causal:CausalSID",
    "SIDMLP": "recbole_sid.model.sid_mlp:SIDMLP",
    "SIDMLPPlusPlus": "recbole_sid.model.sid_mlp_pp:SIDMLPPlusPlus",
    "AdaptiveEnsemble": "recbole_sid.generalization.ensemble:AdaptiveEnsemble",
}

TRAINERS = {
    "TIGER": "recbole_sid.trainer.sid_trainer:SIDTrainer",
    "CausalSID": "recbole_sid.trainer.window_trainer:WindowTrainer",
    "SIDMLP": "recbole_sid.trainer.distillation:DistillationTrainer",
    "SIDMLPPlusPlus": "recbole_sid.trainer.distillation:DistillationTrainer",
    "AdaptiveEnsemble": "recbole_sid.generalization.ensemble_trainer:EnsembleTrainer",
}

FEATURES = {
    "collaborative": "recbole_sid.features.collaborative:CollaborativeFeatures",
    "text": "recbole_sid.features.text:TextFeatures",
    "file": "recbole_sid.features.file:FileFeatures",
}

TOKENIZERS = {
    "rq_kmeans": "recbole_sid.tokenizer.rq_kmeans:ResidualKMeans",
    "rq_kmeans_balanced": "recbole_sid.tokenizer.rq_kmeans_balanced:BalancedResidualKMeans",
    "rq_vae": "recbole_sid.tokenizer.rq_vae:RQVAE",
    "faiss_rq": "recbole_sid.tokenizer.faiss_rq:FaissResidualQuantizer",
    "opq": "recbole_sid.tokenizer.opq:OPQ",
    "random": "recbole_sid.tokenizer.random_codes:RandomCodes",
}

COLLISIONS = {
    "rank": "recbole_sid.tokenizer.collisions:rank",
    "sinkhorn": "recbole_sid.tokenizer.reassign:sinkhorn",
    "nearest": "recbole_sid.tokenizer.reassign:nearest",
    "keep": "recbole_sid.tokenizer.collisions:keep",
}

FORMATS = {
    "json": "recbole_sid.semantic_ids.formats.json_files:PLAIN",
    "index": "recbole_sid.semantic_ids.formats.json_files:INDEX",
    "sem_ids": "recbole_sid.semantic_ids.formats.json_files:SEM_IDS",
    "tensor": "recbole_sid.semantic_ids.formats.tensor_files:TENSOR",
    "csv": "recbole_sid.semantic_ids.formats.column_files:CSV",
    "parquet": "recbole_sid.semantic_ids.formats.column_files:PARQUET",
}


def resolve(registry: Mapping[str, str], name: str, what: str) -> Any:
    """Import what `registry` holds under `name`.

    Raises:
        InputError: if `name` is not registered; names the nearest known one.
    """
    if name not in registry:
        raise InputError(f"Unknown {what} '{name}'{nearest(name, registry)}; known: {', '.join(sorted(registry))}.")
    module, _, attribute = registry[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def get_model(name: str) -> type:
    """Return the model class `name`: one of ours, else RecBole's (recbole/utils/utils.py `get_model`)."""
    if name in MODELS:
        return resolve(MODELS, name, "model")
    from recbole.utils import get_model as recbole_get_model

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
    """Say whether a model is one of `MODELS`, or a user's own class made from one."""
    return _registered_base(model_class) is not None


def get_trainer(model_type: Any, model_class: type) -> type:
    """Return the trainer class of a model: for ours, and what is made from them, that of `TRAINERS`; else RecBole's."""
    base = _registered_base(model_class)
    if base is not None and base in TRAINERS:
        return resolve(TRAINERS, base, "trainer")
    from recbole.utils import get_trainer as recbole_get_trainer

    return recbole_get_trainer(model_type, model_class.__name__)


def _registered_base(model_class: type) -> str | None:
    """Return the name in `MODELS` of a class or of the nearest class that it is made from."""
    for base in model_class.__mro__:
        if base.__name__ in MODELS and resolve(MODELS, base.__name__, "model") is base:
            return base.__name__
    return None


def _recbole_model_names() -> list[str]:
    from pathlib import Path

    import recbole

    return [path.stem for path in (Path(recbole.__file__).parent / "properties" / "model").glob("*.yaml")]
