"""Several processes on one machine or many by Ray Train, which starts them again when one of them is lost."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from datetime import timedelta
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

from recbole_sid.cluster import check_resources, limit_threads, ray_running
from recbole_sid.distributed.attempts import LAUNCH_FOLDER
from recbole_sid.distributed.joining import LONGEST_WAIT, fault, is_loss
from recbole_sid.distributed.place import environment_set, launched_place, silence_others
from recbole_sid.errors import InputError
from recbole_sid.util.files import write_json
from recbole_sid.util.reading import read_json

_RESULT, _ENDED, _SHOWN = "result.json", "ended.json", "shown.txt"  # in the launch's folder
_LOOK = 0.5  # seconds between looks at what the main process shows


class Workers(NamedTuple):
    """Which processes Ray starts.

    Attributes:
        number: of processes.
        cpus, gpus: of each; it has as many threads as CPUs.
        address: of a running cluster; None: Ray is started on this machine.
        retries: how often all are started again when one of them is lost.
    """

    number: int
    cpus: int = 1
    gpus: int = 0
    address: str | None = None
    retries: int = 3


def launch_on_ray(
    work: Callable[..., Any], arguments: Sequence[Any], workers: Workers, folder: str | os.PathLike[str]
) -> Any:
    """Call ``work(*arguments)`` in processes of Ray's, joined to one group; show what the main one writes to stderr.

    When one is lost, all are started again; `attempts` says what is gone on from.

    Args:
        work: a function of a module that is installed where Ray runs.
        arguments: for it, alike in all processes.
        workers: how many, and where.
        folder: in which the launch keeps what it needs while it runs; on several machines one that all of them see,
            as the working directory and all files that `work` reads and writes.

    Returns:
        what `work` returns in the main process, in JSON's types.

    Raises:
        InputError: what `work` raised first, or that processes were lost too often.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="launch-", dir=folder, ignore_cleanup_errors=True) as own,
        environment_set(_manners(workers)),
        ray_running(workers.address),
    ):
        _check(workers)
        shared = Path(own).resolve()
        failure = _fit_and_show(_trainer(work, arguments, workers, shared), shared)
        if (shared / _ENDED).is_file():
            _raise(read_json(shared / _ENDED))
        if (shared / _RESULT).is_file():
            return read_json(shared / _RESULT)["result"]
        raise InputError(
            f"Processes were lost {workers.retries + 1} times ({failure}), most likely for want of memory: lower "
            "train_batch_size or eval_batch_size; --resume=True goes on from the last epoch."
        )


_RAYS_MANNERS = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",  # a busy machine takes long to import torch many times
}


def _manners(workers: Workers) -> dict[str, str]:
    """Return what Ray and its processes read in the environment when they start."""
    # Nobody else has to reach processes of this machine.
    alone = workers.address is None and sys.platform == "linux"
    return {**_RAYS_MANNERS, **({"GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo")} if alone else {})}


def _check(workers: Workers) -> None:
    check_resources(f"A training by {workers.number} workers", workers.cpus, workers.gpus, workers.number)


def _trainer(work: Callable[..., Any], arguments: Sequence[Any], workers: Workers, shared: Path) -> Any:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    resources = {"CPU": workers.cpus, **({"GPU": workers.gpus} if workers.gpus else {})}
    return TorchTrainer(
        _loop,
        train_loop_config={
            "work": work,
            "arguments": tuple(arguments),
            "threads": workers.cpus,
            "directory": os.getcwd(),
            "folder": str(shared),
        },
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if workers.gpus else "gloo",
            timeout_s=int(LONGEST_WAIT / timedelta(seconds=1)),
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers.number, use_gpu=workers.gpus > 0, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(shared),
            failure_config=ray.train.FailureConfig(max_failures=workers.retries),
        ),
    )


def _fit_and_show(trainer: Any, shared: Path) -> str:
    """Run Ray's trainer to its end, while showing what the main process writes; return what went wrong, if anything.

    It runs beside the main thread, where Ray would take Ctrl-C for itself, and keep it.
    """
    failures: list[str] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:  # `_ENDED` says more, if a process could tell
            failures.append(_in_a_line(error))

    thread = Thread(target=fit, daemon=True)
    thread.start()
    shown = 0
    while True:
        thread.join(_LOOK)
        shown = _show(shared / _SHOWN, shown)
        if not thread.is_alive() or (shared / _ENDED).is_file():
            return "; ".join(failures)


def _in_a_line(error: Exception) -> str:
    """Return what a process of Ray's failed of, without its traceback."""
    causes = list(getattr(error, "worker_failures", {}).values()) or [error]
    return str(causes[0]).strip().splitlines()[-1]


def _show(file: Path, shown: int) -> int:
    """Write what `file` holds behind `shown` bytes to stderr; return how many bytes that is in all."""
    if not file.is_file():
        return shown
    with open(file, "rb") as stream:
        stream.seek(shown)
        new = stream.read()
    sys.stderr.write(new.decode("utf-8", "replace"))
    sys.stderr.flush()
    return shown + len(new)


def _raise(ended: dict[str, str]) -> None:
    if ended["kind"] == "fault":
        raise fault(ended["text"])
    raise InputError(ended["text"])


def _loop(given: dict[str, Any]) -> None:
    """Do the work in one of Ray's processes, and tell the launch what came of it."""
    shared = Path(given["folder"])
    if (shared / _ENDED).is_file():  # Ray starts all again whatever ended them
        return
    silence_others()
    limit_threads(given["threads"])
    _enter(given["directory"], shared)
    try:
        with _shown_by_launcher(shared / _SHOWN):
            result = given["work"](*given["arguments"])
    except Exception as error:
        if not is_loss(error):
            _tell(shared / _ENDED, error)
        raise
    if launched_place().rank == 0:
        write_json(shared / _RESULT, {"result": result})


def _enter(directory: str, shared: Path) -> None:
    """Go to the launcher's working directory, from which files are named."""
    if not os.path.isdir(directory) or not shared.is_dir():
        raise InputError(
            f"'{directory}' or '{shared}' is not there on every machine of the cluster: start where all of them see "
            "the working directory and checkpoint_dir, on a disk that they share."
        )
    os.chdir(directory)
    os.environ[LAUNCH_FOLDER] = str(shared)


@contextmanager
def _shown_by_launcher(file: Path) -> Iterator[None]:
    """Let the main process write to where the launcher looks; Ray's own handlers leave the root logger to RecBole."""
    if launched_place().rank > 0:
        yield
        return
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    with open(file, "a", encoding="utf-8", buffering=1) as stream, redirect_stderr(stream):
        yield


def _tell(file: Path, error: Exception) -> None:
    """Write what ended this process, unless another was first."""
    expected = isinstance(error, (InputError, OSError))
    told = {"kind": "input", "text": str(error)} if expected else {"kind": "fault", "text": traceback.format_exc()}
    own = file.with_name(f"{file.name}.{launched_place().rank}")
    write_json(own, told)
    try:
        os.link(own, file)  # whole, and never over another's
    except FileExistsError:
        return
    except OSError:  # a disk without links
        write_json(file, told)
