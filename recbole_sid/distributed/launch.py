"""Several processes on this machine, as a part of a group or all of it: started, watched, and ended together."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from threading import Thread
from time import monotonic, sleep
from typing import Any

from recbole_sid.cluster import limit_threads
from recbole_sid.distributed.joining import ProcessLost, fault, is_loss, wait_until_open
from recbole_sid.distributed.place import Processes, environment_set, silence_others
from recbole_sid.errors import InputError, first_line
from recbole_sid.util.visible_gpus import all_gpus_visible

_PATIENCE = 600.0  # seconds for the first machine to hold the meeting place
_LAST_ACTS = 60.0  # seconds for a process to end by itself after its work
_GRACE = 5.0  # seconds for a process to end when it is told to
_ROOT_CAUSE = 1.0  # seconds to hear of what broke before what only noticed it
_ENDED = "recbole_sid/ended"  # in the store: what ended the processes of a machine
_DONE = "recbole_sid/done"  # how many have done their work


def launch(work: Callable[..., Any], arguments: Sequence[Any], processes: Processes) -> Any:
    """Call ``work(*arguments)`` in new processes, which find each other by `joining.join`.

    Args:
        work: a function of a module, so that the processes can be told of it.
        arguments: for it, alike in all processes.
        processes: how many, and where they meet.

    Returns:
        what `work` returns in the first process here, on the first machine the main one of the group.

    Raises:
        InputError: what `work` raised first, or that a process was killed; all others have been ended.
        KeyboardInterrupt: likewise.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError("Processes are started under `if __name__ == '__main__':`, which this script lacks.")
    store, port = _meeting_place(processes)
    context = multiprocessing.get_context("spawn")
    children: list[tuple[Any, Connection]] = []
    try:
        for local_rank in range(processes.n_here):
            reader, writer = context.Pipe(duplex=False)
            with all_gpus_visible(), environment_set(_environment(processes, port, local_rank)):
                child = context.Process(
                    target=_run, args=(work, tuple(arguments), writer, os.getpid(), _threads(processes.n_here))
                )
                child.start()
            writer.close()
            children.append((child, reader))
        result = _watch(children, store, processes)
        _let_finish([child for child, _ in children])
        return result
    except BaseException as error:
        _tell_other_machines(store, processes, error)
        raise
    finally:
        _end([child for child, _ in children])


def _meeting_place(processes: Processes) -> tuple[Any, int]:
    """Return the store where the processes of the group meet, held by the first machine's launcher, and its port."""
    import torch.distributed as dist

    if processes.offset > 0:
        port = processes.port or 0
        try:
            wait_until_open(processes.host, port, _PATIENCE)
            return dist.TCPStore(processes.host, port, is_master=False), port
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"Nothing answers at ip={processes.host} and port={port} ({first_line(error)}): start the processes "
                "of the first machine (group_offset=0) there."
            ) from error
    try:
        # Bound here, and on this machine's own interface where no other has to reach it: torch binds to all.
        if processes.are_all_here:
            listening = socket.create_server((processes.host, processes.port or 0))
        else:
            listening = _server_for_all(processes.port or 0)
    except OSError as error:
        raise InputError(
            f"The processes cannot meet at port={processes.port} ({first_line(error)}): choose another port."
        ) from error
    port = listening.getsockname()[1]
    store = dist.TCPStore(
        processes.host, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()
    )
    return store, port


def _server_for_all(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _environment(processes: Processes, port: int, local_rank: int) -> dict[str, str]:
    """Return what torchrun would say to a process."""
    told = {
        "RANK": processes.offset + local_rank,
        "WORLD_SIZE": processes.n_all,
        "LOCAL_RANK": local_rank,
        "LOCAL_WORLD_SIZE": processes.n_here,
        "MASTER_ADDR": processes.host,
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # held by the launcher
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "FATAL"),  # what is lost is told in a sentence
    }
    if processes.are_all_here and sys.platform == "linux":
        told["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")  # and listens to no other machine
    return {name: str(value) for name, value in told.items()}


def _threads(n_here: int) -> int | None:
    """Return the threads of each process: its share of the cores; None if the user has said how many."""
    if "OMP_NUM_THREADS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // n_here)


def _run(
    work: Callable[..., Any], arguments: tuple[Any, ...], told: Connection, parent: int, threads: int | None
) -> None:
    """Do the work of one process and tell the launcher what came of it; Ctrl-C is the launcher's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is open is closed, temporary files go
    end_with(parent)
    silence_others()
    if threads is not None:
        limit_threads(threads)
    try:
        told.send(("result", work(*arguments)))
    except (InputError, OSError) as error:
        told.send(("lost" if is_loss(error) else "error", str(error)))
        sys.exit(2)
    except Exception as error:
        told.send(("lost", first_line(error)) if is_loss(error) else ("fault", traceback.format_exc()))
        sys.exit(1)


def end_with(parent: int) -> None:
    """Let this process end soon after the process `parent` has: one that is killed cannot end its children."""

    def watch() -> None:
        while os.getppid() == parent:
            sleep(1)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _watch(children: Sequence[tuple[Any, Connection]], store: Any, processes: Processes) -> Any:
    """Wait until all are done; return what the first told, or raise what ended one of them."""
    results: dict[int, Any] = {}
    waiting = {reader: number for number, (_, reader) in enumerate(children)}
    while waiting:
        for reader in wait(list(waiting), timeout=1):
            number = waiting.pop(reader)  # type: ignore[call-overload]
            kind, value = _heard(reader, children[number][0])
            if kind != "result":
                _fail(kind, value, waiting, children)
            results[number] = value
        _check_other_machines(store, processes)
    _wait_for_other_machines(store, processes)
    return results[0]


def _heard(reader: Any, child: Any) -> tuple[str, Any]:
    """Return what a process told, or what its end says."""
    with suppress(EOFError, OSError, pickle.UnpicklingError):
        return reader.recv()
    child.join()
    if child.exitcode < 0:
        return "killed", (
            f"A process of the group was killed (signal {-child.exitcode}), most likely for want of memory: lower "
            "train_batch_size or eval_batch_size; resume=True goes on from the last epoch."
        )
    return "killed", f"A process of the group ended (status {child.exitcode}) before its work was done."


def _fail(kind: str, value: Any, waiting: dict[Any, int], children: Sequence[tuple[Any, Connection]]) -> None:
    """Raise what ended the processes, which may not be what was heard of first."""
    given_up = monotonic() + _ROOT_CAUSE
    while kind == "lost" and waiting and monotonic() < given_up:
        for reader in wait(list(waiting), timeout=_ROOT_CAUSE):
            kind, value = _heard(reader, children[waiting.pop(reader)][0])
            if kind != "lost":
                break
    if kind == "fault":
        raise fault(value)
    if kind == "lost":
        raise ProcessLost(f"A process of the group is gone ({value}): resume=True goes on from the last epoch.")
    raise InputError(value)


def _check_other_machines(store: Any, processes: Processes) -> None:
    """Raise InputError if the processes of another machine have ended before their work was done."""
    if processes.are_all_here:
        return
    try:
        said = store.get(_ENDED).decode() if store.check([_ENDED]) else None
    except RuntimeError as error:
        raise ProcessLost("The first machine is gone: what its processes said tells more.") from error
    if said is not None:
        raise ProcessLost(f"The processes on another machine have ended: {said}")


def _wait_for_other_machines(store: Any, processes: Processes) -> None:
    """Keep the meeting place open until all have done their work, where this machine holds it."""
    with suppress(RuntimeError):  # the first machine was quicker
        n_done = 0 if processes.are_all_here else store.add(_DONE, processes.n_here)
        given_up = monotonic() + _PATIENCE
        while 0 < n_done < processes.n_all and processes.offset == 0 and monotonic() < given_up:
            sleep(0.2)
            n_done = store.add(_DONE, 0)


def _tell_other_machines(store: Any, processes: Processes, error: BaseException) -> None:
    if not processes.are_all_here and not isinstance(error, ProcessLost):
        with suppress(RuntimeError):
            store.set(_ENDED, str(error) if isinstance(error, InputError) else first_line(error))  # type: ignore[arg-type]
            sleep(_ROOT_CAUSE * 2)  # for them to look


def _let_finish(children: Sequence[Any]) -> None:
    """Wait for what processes do after their work, such as sending the rest of a log."""
    given_up = monotonic() + _LAST_ACTS
    for child in children:
        child.join(max(0.0, given_up - monotonic()))


def _end(children: Sequence[Any]) -> None:
    """End those that still run."""
    for child in children:
        if child.is_alive():
            child.terminate()
    given_up = monotonic() + _GRACE
    for child in children:
        child.join(max(0.0, given_up - monotonic()))
        if child.is_alive():
            child.kill()
            child.join()
