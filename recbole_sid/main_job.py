"""The main job: a teacher, the students distilled from it, and baselines, trained and ranked by one evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from recbole_sid.config import PROPERTIES, Config
from recbole_sid.errors import InputError, nearest
from recbole_sid.evaluation.throughput import users_per_second
from recbole_sid.quick_start import Run, count_parameters, run_model

QUICK_START = PROPERTIES / "quick_start" / "ml-100k.yaml"
_METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")


def run_main_job(
    file: str | Path = QUICK_START,
    overrides: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run the models of a quick-start file in order and compare them on the test split.

    Args:
        file: YAML with ``dataset``, ``settings`` (for all) and ``models`` (name -> settings; the name is the model's,
            unless the settings hold ``model``). One model that students can learn from must come before them.
        overrides: settings over those of the file, for the models that know them.
        report: told what begins, a line a model.

    Returns:
        one flat row a model with model, recall@5, recall@10, ndcg@5, ndcg@10, users_per_s, parameters,
        share_of_teacher (students), wall_s. The teacher has two rows: searching all code combinations, and constrained
        to valid semantic IDs.
    """
    plan = _read(file)
    chosen = _choose(plan, overrides or {})
    rows: list[dict[str, Any]] = []
    teacher: Run | None = None
    teacher_ndcg = None
    for number, (name, settings) in enumerate(plan["models"].items(), start=1):
        report(f"[{number}/{len(plan['models'])}] {name}")
        merged = {**plan["settings"], **_own(settings), **chosen[name]}
        config = Config(_model(name, settings), plan["dataset"], config_dict=merged)
        if "teacher_path" in config and teacher is not None and not config["teacher_path"]:
            config["teacher_path"] = teacher.trainer.saved_model_file
        run = run_model(config)
        if hasattr(run.trainer.model, "level_logits"):
            teacher = run
            rows.append(_row(run, name, constrained=False))
            rows.append(_row(run, f"{name}-constrained", constrained=True))
            teacher_ndcg = rows[-1]["ndcg@10"]
        else:
            rows.append(_row(run, name))
            if "teacher_path" in config and teacher_ndcg:
                rows[-1]["share_of_teacher"] = rows[-1]["ndcg@10"] / teacher_ndcg
    return rows


def _row(run: Run, name: str, constrained: bool | None = None) -> dict[str, Any]:
    if constrained is not None:
        run.trainer.model.constrained = constrained
    result = run.trainer.evaluate(run.test_data, load_best_model=False)
    return {
        "model": name,
        **{metric: float(result[metric]) for metric in _METRICS},
        "users_per_s": users_per_second(run.trainer, run.test_data),
        "parameters": count_parameters(run.trainer.model),
        "share_of_teacher": None,
        "wall_s": run.train_s,
    }


def _model(name: str, settings: Mapping[str, Any] | None) -> str:
    """Return the model that an entry of the file is of."""
    return (settings or {}).get("model", name)


def _own(settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return an entry's settings of its model."""
    return {key: value for key, value in (settings or {}).items() if key != "model"}


def _choose(plan: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return per model the overrides that it knows.

    Raises:
        InputError: if no model knows a key.
    """
    known = {
        name: Config(_model(name, settings), plan["dataset"]).known_keys() for name, settings in plan["models"].items()
    }
    everything = set().union(*known.values())
    for key in overrides:
        if key not in everything:
            raise InputError(f"Unknown configuration key '{key}'{nearest(key, everything)}.")
    return {name: {key: overrides[key] for key in overrides if key in keys} for name, keys in known.items()}


def _read(file: str | Path) -> dict[str, Any]:
    if not Path(file).is_file():
        raise InputError(f"The quick-start file '{file}' does not exist.")
    plan = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    for key in ("dataset", "settings", "models"):
        if not isinstance(plan, dict) or not plan.get(key):
            raise InputError(f"The quick-start file '{file}' must name dataset, settings and models.")
    return plan
