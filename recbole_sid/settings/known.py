"""All declarations of keys there are: of every run, of semantic IDs, of registered metrics and models."""

from __future__ import annotations

from recbole_sid.capabilities import capabilities_of
from recbole_sid.registry import METRICS, MODELS, get_model, resolve
from recbole_sid.settings.declared import Settings
from recbole_sid.settings.run import LaunchSettings, RecBoleSettings, RunSettings
from recbole_sid.settings.semantic_ids import semantic_id_settings


def common_settings() -> list[type[Settings]]:
    """Return the declarations of the keys that every run has, RecBole's own keys aside."""
    return [RunSettings, LaunchSettings, *semantic_id_settings(), *metric_settings()]


def metric_settings() -> list[type[Settings]]:
    """Return the declarations of the keys of registered metrics."""
    metrics = [resolve(METRICS, name, "metric") for name in METRICS]
    return list(dict.fromkeys(metric.settings for metric in metrics if hasattr(metric, "settings")))


def settings_of(model_class: type) -> list[type[Settings]]:
    """Return the declarations of the keys that a run of `model_class` has, RecBole's own keys aside."""
    return [*common_settings(), capabilities_of(model_class).settings]


def flagged(flag: str, model_class: type | None = None) -> tuple[str, ...]:
    """Return the keys whose declaration sets `flag`, an attribute of `settings.Key`.

    Args:
        flag: such as ``file`` or ``volatile``.
        model_class: whose keys count beside those of registered models.
    """
    models = [get_model(name) for name in MODELS] + ([model_class] if model_class else [])
    of_models = [capabilities_of(model).settings for model in models]
    declared: list[type[Settings]] = [RecBoleSettings, *common_settings(), *of_models]
    return tuple(dict.fromkeys(name for each in declared for name in each.flagged(flag)))


def semantic_id_keys() -> list[str]:
    """Return the keys that decide semantic IDs."""
    return [name for declared in semantic_id_settings() for name in declared.declarations()]
