"""The main job: a teacher, the students distilled from it, and baselines, trained and ranked by one evaluator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from recbole_sid.comparison.job import Job, changed, make_jobs, train
from recbole_sid.comparison.plan import read_plan
from recbole_sid.config import PROPERTIES
from recbole_sid.evaluation.runs import Evaluation
from recbole_sid.evaluation.throughput import users_per_second
from recbole_sid.quick_start import Run, count_parameters

QUICK_START = PROPERTIES / "quick_start" / "ml-100k.yaml"
_METRICS = ("recall@5", "recall@10", "ndcg@5", "ndcg@10")
_REPEATS = 3


def run_main_job(
    file: str | Path = QUICK_START,
    overrides: Mapping[str, Any] | None = None,
    report: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run the models of a plan in order, in this process, and compare them on the test split.

    Args:
        file: of `recbole_sid.comparison.plan.read_plan`.
        overrides: settings over those of the file, for the models that know them; ``seed`` is the seed of all.
        report: told what begins, a line a model.

    Returns:
        one flat row a model with model, recall@5, recall@10, ndcg@5, ndcg@10, users_per_s, parameters,
        share_of_teacher (students), wall_s. The teacher has two rows: searching all code combinations, and constrained
        to valid semantic IDs.
    """
    overrides = dict(overrides or {})
    seed = overrides.pop("seed", None)
    plan = read_plan(file, overrides, None if seed is None else [seed])
    jobs = make_jobs(plan, "", resume=bool(overrides.get("resume", False)))
    reference = {entry.name: entry.row(entry.reference()) for entry in plan.entries}
    rows: list[dict[str, Any]] = []
    for number, job in enumerate(jobs, start=1):
        report(f"[{number}/{len(jobs)}] {job.entry.name}")
        ndcg = {row["model"]: row["ndcg@10"] for row in rows}
        rows += _rows(job, train(job), ndcg.get(reference.get(job.entry.teacher or "", "")))
    return rows


def _rows(job: Job, run: Run, of_teacher: float | None) -> list[dict[str, Any]]:
    """Return a trained model's rows, one an evaluation.

    Args:
        job: of the model.
        run: the model.
        of_teacher: NDCG@10 of its teacher, if it has one.
    """
    rows = []
    for evaluation, changes in job.entry.evaluations.items():
        found = _evaluate(run, changes)
        metrics = {metric: found["metrics"][metric] for metric in _METRICS}
        rows.append(
            {
                "model": job.entry.row(evaluation),
                **metrics,
                "users_per_s": found["users_per_s"],
                "parameters": count_parameters(run.trainer.model),
                "share_of_teacher": metrics["ndcg@10"] / of_teacher if of_teacher else None,
                "wall_s": run.train_s,
            }
        )
    return rows


def _evaluate(run: Run, changes: dict[str, Any]) -> Evaluation:
    """Return what the best weights reach on the test split, with `changes` set on the model, and how fast."""
    with changed(run.trainer.model, changes):
        result = run.trainer.evaluate(run.test_data, load_best_model=True)
        speed = users_per_second(run.trainer, run.test_data, _REPEATS)
    return {
        "settings": changes,
        "metrics": {name: float(value) for name, value in result.items()},
        "users_per_s": speed,
    }
