"""Running the jobs of a comparison, each in its own process: none is done twice, and one failure loses no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from recbole_sid.comparison.job import Job, run_job, stored
from recbole_sid.errors import InputError, first_line


class Outcome(NamedTuple):
    """What became of a job.

    Attributes:
        job: which.
        result: what `run_job` returned; None if it failed.
        failure: one sentence; None if it did not.
    """

    job: Job
    result: dict[str, Any] | None
    failure: str | None


def run_jobs(
    jobs: Sequence[Job], execute: Callable[[Job], dict[str, Any]] | None = None, report: Callable[[str], None] = print
) -> list[Outcome]:
    """Run `jobs` in order, those aside whose results are stored.

    Args:
        jobs: teachers before their students.
        execute: runs one job and returns its result; by default in a process of its own.
        report: told what begins and what ended, a line each.
    """
    execute = execute or in_own_process
    outcomes: list[Outcome] = []
    for number, job in enumerate(jobs, start=1):
        label = f"[{number}/{len(jobs)}] {job.name}"
        result = stored(job)
        if result is not None:
            report(f"{label}: reused from {job.folder}")
            outcomes.append(Outcome(job, result, None))
            continue
        report(label)
        started = perf_counter()
        try:
            _bring_back_teacher(job, jobs, execute, report)
            result = execute(job)
        except InputError as error:
            outcomes.append(Outcome(job, None, str(error)))
            report(f"{label} failed: {error}")
        except Exception as error:  # one model's failure must not lose the others
            outcomes.append(Outcome(job, None, first_line(error)))
            report(f"{label} failed: {first_line(error)}")
        else:
            outcomes.append(Outcome(job, result, None))
            report(f"{label}: {perf_counter() - started:.0f} s, {_shown(result)}")
    return outcomes


def in_own_process(job: Job) -> dict[str, Any]:
    """Run `job` in a fresh process, so that its peak memory is its own and a crash ends nothing else.

    Raises:
        InputError: if the process died.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(run_job, job).result()
        except BrokenProcessPool as error:
            raise InputError(
                "Its process was killed, most likely for want of memory: lower eval_batch_size or train_batch_size."
            ) from error


def _bring_back_teacher(
    job: Job, jobs: Sequence[Job], execute: Callable[[Job], dict[str, Any]], report: Callable[[str], None]
) -> None:
    """Train the teacher of `job` again if its results are stored but its checkpoint is gone."""
    if job.entry.teacher is None or Path(job.settings["teacher_path"]).is_file():
        return
    teacher = next(other for other in jobs if other.entry.name == job.entry.teacher and other.seed == job.seed)
    if stored(teacher) is None:
        raise InputError(f"Its teacher ({teacher.name}) failed.")
    report(f"{teacher.name}: its checkpoint {job.settings['teacher_path']} is gone, training it again")
    execute(teacher)


def _shown(result: dict[str, Any]) -> str:
    metrics = next(iter(result["evaluations"].values()))["metrics"]
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
