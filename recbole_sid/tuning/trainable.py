"""What Ray runs for a trial: its training here, or in processes that train it together."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any

from recbole_sid.cluster import assigned_gpus, limit_threads
from recbole_sid.distributed.launch import launch
from recbole_sid.distributed.place import Processes, launched_place
from recbole_sid.tuning.trial import SAMPLE, SearchPlan, place_data, train_trial
from recbole_sid.util.processes import without_callers_script

_LOOK = 0.5  # seconds between looks whether the processes have ended


def run_trial(given: dict[str, Any], plan: SearchPlan, data: Mapping[str, Any] | None = None) -> None:
    """Train the trial that Ray runs this in; Ray's trainable.

    Args:
        given: under `SAMPLE`, searched key -> sampled value.
        plan: the search.
        data: file name -> bytes (uint8) of the dataset's files, where a node may lack them.
    """
    from ray import tune

    limit_threads(plan.cpus)  # its processes too
    settings = dict(plan.settings)
    if data:
        settings["data_path"] = place_data(plan.dataset, data)
    if plan.gpus:
        settings["gpu_id"] = assigned_gpus()
    try:
        train = train_trial if plan.processes == 1 else train_together
        train(plan._replace(settings=settings), given[SAMPLE], tune.get_context().get_trial_id(), tune.report)
    finally:
        gc.collect()  # the process goes on with the next trial


def train_together(
    plan: SearchPlan, sample: Mapping[str, Any], name: str, report: Callable[[dict[str, Any]], None]
) -> None:
    """Train a trial as `train_trial`, by the plan's processes, on this machine.

    After each epoch they wait until `report` returns; when it raises, as it does where Ray stops the trial, they end.

    Raises:
        InputError: what one of them raised, or that one was lost.
    """
    ours, theirs = get_context("spawn").Pipe()
    failures: list[BaseException] = []

    def start() -> None:
        try:
            with without_callers_script():
                launch(_train, (plan, dict(sample), name, theirs), Processes(plan.processes, plan.processes))
        except BaseException as error:
            failures.append(error)

    launcher = Thread(target=start, daemon=True)
    launcher.start()
    try:
        while launcher.is_alive() or ours.poll():
            if ours.poll(_LOOK):
                report(ours.recv())
                ours.send(None)
    finally:
        ours.close()  # who still waits for an answer hears that there is none
        launcher.join()
        theirs.close()
    if failures:
        raise failures[0]


def _train(plan: SearchPlan, sample: Mapping[str, Any], name: str, told: Connection) -> None:
    """Do the part of one process; the others need no answer, as they wait for the main one."""

    def report(values: dict[str, Any]) -> None:
        if launched_place().rank == 0:
            told.send(values)
            told.recv()  # EOFError, which ends all, where the trial is stopped

    train_trial(plan, sample, name, report)
