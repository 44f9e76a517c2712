"""Running the jobs of a comparison, each in its own process: none is done twice, and one failure loses no other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from time import perf_counter, sleep
from typing import Any, NamedTuple

from recbole_sid.cluster import assigned_gpus, check_own_gpus, check_resources, limit_threads, ray_running
from recbole_sid.comparison.job import Job, run_job_quietly, run_of_other_version, stored, train_quietly
from recbole_sid.comparison.panel import ComparisonStanding
from recbole_sid.distributed.launch import launch
from recbole_sid.distributed.place import Processes
from recbole_sid.errors import InputError, first_line
from recbole_sid.evaluation.runs import RunResult
from recbole_sid.util.processes import without_callers_script


class JobOutcome(NamedTuple):
    """What became of a job.

    Attributes:
        job: which.
        result: what `run_job` returned; None if it failed.
        failure: one sentence; None if it did not.
        reused: the result is of a run before this one.
    """

    job: Job
    result: RunResult | None
    failure: str | None
    reused: bool = False


class RayOptions(NamedTuple):
    """How jobs run as Ray tasks.

    Attributes:
        address: of a running cluster; None: Ray is started on this machine.
        cpus: of each job, or one for each of its processes if that is more.
        gpus: of each job, or of each of its processes.
    """

    address: str | None = None
    cpus: float = 1
    gpus: float = 0


def run_jobs(
    jobs: Sequence[Job],
    execute: Callable[[Job], RunResult] | None = None,
    report: Callable[[str], None] = print,
    standing: ComparisonStanding | None = None,
) -> list[JobOutcome]:
    """Run `jobs` in order, those aside whose results are stored.

    Args:
        jobs: teachers before their students.
        execute: runs one job and returns its result; by default in a process of its own.
        report: told what begins and what ended, a line each.
        standing: told the same, for a panel.
    """
    standing = standing or ComparisonStanding(jobs)
    execute = execute or (_beside_panel if standing.shown else in_own_process)
    outcomes: list[JobOutcome] = []
    for number, job in enumerate(jobs, start=1):
        label = f"[{number}/{len(jobs)}] {job.name}"
        result = stored(job)
        if result is not None:
            report(f"{label}: reused from {job.folder}")
            outcomes.append(JobOutcome(job, result, None, reused=True))
            standing.ended(job, result)
            continue
        other = run_of_other_version(job)
        report(f"{label}: {other}" if other else label)
        started = perf_counter()
        standing.began(job)
        try:
            _bring_back_teacher(job, jobs, execute, report)
            result = execute(job)
        except InputError as error:
            outcomes.append(JobOutcome(job, None, str(error)))
            report(f"{label} failed: {error}")
        except Exception as error:  # one model's failure must not lose the others
            outcomes.append(JobOutcome(job, None, first_line(error)))
            report(f"{label} failed: {first_line(error)}")
        else:
            outcomes.append(JobOutcome(job, result, None))
            report(f"{label}: {perf_counter() - started:.0f} s, {_shown(result)}")
        standing.ended(job, outcomes[-1].result)
    return outcomes


def _beside_panel(job: Job) -> RunResult:
    """Do as `in_own_process`, and print what the process says in lines, above the panel that this one draws."""
    quiet = job._replace(settings={**job.settings, "show_progress": False})
    ours, theirs = get_context("spawn").Pipe(duplex=False)
    with ours, os.fdopen(os.dup(ours.fileno()), encoding="utf-8", errors="replace") as said:
        reader = Thread(target=lambda: [print(line.rstrip("\n")) for line in said], daemon=True)
        reader.start()
        try:
            return in_own_process(quiet, _say_to, (theirs,))
        finally:
            theirs.close()
            reader.join(5)  # a process that it left behind may keep the pipe open


def _say_to(connection: Any) -> None:
    """Let all that this process prints go to a pipe."""
    for stream in (1, 2):
        os.dup2(connection.fileno(), stream)
    connection.close()


def in_own_process(job: Job, before: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()) -> RunResult:
    """Run `job` in a fresh process, so that its peak memory is its own and a crash ends nothing else.

    Args:
        job: which.
        before: called there with `arguments` first.
        arguments: of it.

    Raises:
        InputError: if the process died, or one of several that train it.
    """
    job = _trained_together(job, before, arguments)
    with ProcessPoolExecutor(1, get_context("spawn"), before, arguments) as pool:
        with without_callers_script():
            running = pool.submit(_run_with_parent, job, os.getpid())
        try:
            return running.result()
        except BrokenProcessPool as error:
            raise InputError(
                "Its process was killed, most likely for want of memory: lower eval_batch_size or train_batch_size."
            ) from error


def _trained_together(job: Job, before: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()) -> Job:
    """Train `job` by its processes if it has several; return what is then left, for one to do.

    Raises:
        InputError: what one of them raised, or that one was lost.
    """
    if job.processes == 1:
        return job
    with without_callers_script():
        held = launch(_train_with, (job, before, arguments), Processes(job.processes, job.processes))
    return job._replace(settings={**job.settings, "resume": True}, processes=1, trained_mb=held)


def _train_with(job: Job, before: Callable[..., None] | None, arguments: tuple[Any, ...]) -> float:
    """Do as `train_quietly`, after what comes before."""
    if before is not None:
        before(*arguments)
    return train_quietly(job)


def _run_with_parent(job: Job, parent: int) -> RunResult:
    """Run `job`, and end if the process `parent` ends: one that is killed cannot end its children."""

    def watch() -> None:
        while os.getppid() == parent:
            sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()
    return run_job_quietly(job)


def run_jobs_on_ray(
    jobs: Sequence[Job],
    options: RayOptions,
    report: Callable[[str], None] = print,
) -> list[JobOutcome]:
    """Run `jobs` as Ray tasks, as many at a time as there are CPUs and GPUs for, those aside whose results are stored.

    On several machines, ``checkpoint_dir``, the results' folder and the data must lie where all of them see them.

    Args:
        jobs: teachers before their students.
        options: where, and what each job gets.
        report: told what is reused and what ended, a line each.
    """
    import ray

    found = {
        job.name: JobOutcome(job, result, None, reused=True) for job in jobs if (result := stored(job)) is not None
    }
    unfinished = [job for job in jobs if job.name not in found]
    again = {teacher.name for job in unfinished for teacher in _lost_teacher(job, jobs)}
    for job in unfinished:
        check_own_gpus(options.gpus, job.processes)
    with ray_running(options.address):
        for job in unfinished:
            check_resources(job.entry.name, *_resources(job, options))
        task = ray.remote(max_calls=1, max_retries=0)(_run_after)
        running: dict[str, Any] = {}
        for job in jobs:
            if job.name in found and job.name not in again:
                report(f"{job.name}: reused from {job.folder}")
                continue
            if (other_version := run_of_other_version(job)) is not None:
                report(f"{job.name}: {other_version}")
            before = [running[other.name] for other in _needed(job, jobs) if other.name in running]
            cpus, gpus = _resources(job, options)
            running[job.name] = task.options(num_cpus=cpus, num_gpus=gpus).remote(job, *before)
        by_reference = {running[job.name]: job for job in jobs if job.name in running}
        n_running = len(by_reference)
        while by_reference:
            (done,), _ = ray.wait(list(by_reference), num_returns=1)
            job = by_reference.pop(done)
            failed = [other for other in _needed(job, jobs) if _failed(found.get(other.name))]
            found[job.name] = _outcome(job, done, failed)
            outcome = found[job.name]
            shown = outcome.failure if outcome.result is None else _shown(outcome.result)
            report(f"[{n_running - len(by_reference)}/{n_running}] {job.name}: {shown}")
    return [found[job.name] for job in jobs]


def _run_after(job: Job, *before: Any) -> RunResult:
    """Run `job` in a Ray worker, once the jobs whose results are `before` have ended well."""
    import ray

    assigned = ray.get_runtime_context().get_assigned_resources()
    cpus = assigned.get("CPU", 1)
    here = _on_assigned_gpus(job) if assigned.get("GPU") else job
    limit_threads(cpus / job.processes)  # which the processes take over
    alone = _trained_together(here)
    limit_threads(cpus)
    return run_job_quietly(alone)


def _resources(job: Job, options: RayOptions) -> tuple[float, float]:
    """Return the CPUs and GPUs of `job`."""
    return max(options.cpus, job.processes), options.gpus * job.processes


def _on_assigned_gpus(job: Job) -> Job:
    return job._replace(settings={**job.settings, "gpu_id": assigned_gpus()})


def _outcome(job: Job, reference: Any, failed: Sequence[Job]) -> JobOutcome:
    import ray

    try:
        return JobOutcome(job, ray.get(reference), None)
    except ray.exceptions.RayTaskError as error:
        if failed:
            return JobOutcome(job, None, f"It needs {failed[0].name}, which failed.")
        cause = error.cause or error
        return JobOutcome(job, None, str(cause) if isinstance(cause, InputError) else first_line(cause))
    except ray.exceptions.RayError as error:
        return JobOutcome(job, None, f"Its process was lost ({first_line(error)}).")


def _failed(outcome: JobOutcome | None) -> bool:
    return outcome is not None and outcome.failure is not None


def _needed(job: Job, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs whose models `job` is made from: its teacher, or an ensemble's members."""
    names = {job.entry.teacher, *job.entry.members.values()}
    return [other for other in jobs if other.entry.name in names and other.seed == job.seed]


def _lost_teacher(job: Job, jobs: Sequence[Job]) -> list[Job]:
    """Return the teacher of `job` if its checkpoint is gone."""
    if job.entry.teacher is None or Path(job.settings["teacher_path"]).is_file():
        return []
    return [other for other in _needed(job, jobs) if other.entry.name == job.entry.teacher]


def _bring_back_teacher(
    job: Job, jobs: Sequence[Job], execute: Callable[[Job], RunResult], report: Callable[[str], None]
) -> None:
    """Train the teacher of `job` again if its results are stored but its checkpoint is gone."""
    for teacher in _lost_teacher(job, jobs):
        if stored(teacher) is None:
            raise InputError(f"It needs {teacher.name}, which failed.")
        report(f"{teacher.name}: its checkpoint {job.settings['teacher_path']} is gone, training it again")
        execute(teacher)


def _shown(result: RunResult) -> str:
    metrics = next(iter(result["evaluations"].values()))["metrics"]
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
