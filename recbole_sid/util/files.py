"""Writing files so that an interruption leaves the old file or the new one, never half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from logging import getLogger
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

from recbole_sid.errors import InputError

if TYPE_CHECKING:
    from filelock import FileLock


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no file can be written to, before the work whose result it is to hold; leaves nothing behind.

    An existing pipe or character device, such as ``/dev/stdout``, can be written to.

    Args:
        path: the file; a path that ends in a separator stands for a folder to write files into.

    Raises:
        InputError: if it is a folder or a disk, or if it or its folder cannot be written to or made.
    """
    if os.fspath(path).endswith(os.sep):
        check_folder_writable(path)
        return
    if _stream(path) is not None:
        if not os.access(path, os.W_OK):
            raise InputError(f"'{path}' cannot be written to (permission denied): name another file.")
        return
    target = _resolved(path)
    _require_place_for(_kind(target), target, path)
    _try_folder(target.parent, path)


def check_folder_writable(path: str | os.PathLike[str]) -> None:
    """Refuse a folder that no files can be written into, before the work whose results it is to hold.

    It need not exist, and is not made.

    Raises:
        InputError: if it is a file, or if it cannot be written to or made.
    """
    _try_folder(_resolved(path), path)


def _resolved(path: str | os.PathLike[str]) -> Path:
    """Return what `path` stands for, symbolic links followed."""
    name = os.fspath(path)
    if not name or "\0" in name:
        raise InputError(f"{name!r} is no name of a file or folder: give one.")
    return Path(os.path.realpath(name))


def _require_place_for(kind: str, target: Path, path: str | os.PathLike[str]) -> None:
    """Refuse `target`, what `path` stands for, if it is there and no file that may be replaced."""
    if kind == "folder":
        raise InputError(f"'{path}' is a folder and a file is to be written there: name a file, for example in it.")
    if kind not in ("file", "nothing"):
        raise InputError(f"'{path}' is neither a file nor a pipe, so nothing can be written there: name a file.")
    if kind == "file" and not os.access(target, os.W_OK):  # a rename would get past this, which nobody expects
        raise InputError(f"'{path}' is write-protected: name another file, or make it writable.")


def _kind(path: Path) -> str:
    """Return what is at `path`: nothing, file, folder, stream (a pipe or character device) or other."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except OSError as error:  # a name that is too long, a folder without permission
        raise InputError(f"'{path}' cannot be written to ({error.strerror}): name another file.") from error
    kinds = {stat.S_ISREG: "file", stat.S_ISDIR: "folder", stat.S_ISCHR: "stream", stat.S_ISFIFO: "stream"}
    return next((kind for is_kind, kind in kinds.items() if is_kind(mode)), "other")


def _try_folder(folder: Path, path: str | os.PathLike[str]) -> None:
    """Make and remove a file in `folder` or, if that does not exist, a folder in the nearest one that does.

    Asking for permissions is not enough: read-only file systems and quotas show only in the attempt.
    """
    nearest = next(place for place in (folder, *folder.parents) if _kind(place) != "nothing")
    if _kind(nearest) != "folder":
        raise InputError(f"'{path}' cannot be written to, because '{nearest}' is no folder: name another place.")
    try:
        attempt = nearest / _unfinished_name("")
        if nearest == folder:
            _create_file(attempt)
            attempt.unlink()
        else:
            attempt.mkdir()
            attempt.rmdir()
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be written to ({error.strerror} in '{nearest}'): name another place, or make that "
            "folder writable."
        ) from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, else delete it.

    The new file and its name are on the disk when the block ends. A symbolic link is followed; what is written for a
    pipe, a terminal or another character device (``/dev/stdout``) goes through it instead. A file that exists keeps its
    permissions, a new one gets those of the umask.

    Raises:
        InputError: if nothing can be written there, or the disk is full (also where the block met that).
    """
    stream = _stream(path)
    if stream is not None:
        with TemporaryDirectory() as folder, _full_disk_in_a_sentence(path):
            temporary = Path(folder, "content" + Path(path).suffix)
            yield temporary
            with stream() as target, open(temporary, "rb") as content:
                shutil.copyfileobj(content, target)
        return
    target_path = _resolved(path)
    _require_place_for(_kind(target_path), target_path, path)
    with _full_disk_in_a_sentence(path):
        temporary = _unfinished_beside(target_path, path, _create_file)
        try:
            yield temporary
            with suppress(FileNotFoundError):
                os.chmod(temporary, stat.S_IMODE(target_path.stat().st_mode))
            _flush(temporary)
            os.replace(temporary, target_path)
            _flush_folder(target_path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` if the block succeeds, else delete it.

    Files and names are on the disk when the block ends.

    Raises:
        InputError: if `path` exists, cannot be made, or the disk is full (also where the block met that).
    """
    check_absent(path)
    target = _resolved(path)
    with _full_disk_in_a_sentence(path):
        temporary = _unfinished_beside(target, path, Path.mkdir)
        try:
            yield temporary
            for folder, _, names in os.walk(temporary):
                for name in names:
                    _flush(Path(folder, name))
                _flush_folder(Path(folder))
            os.replace(temporary, target)
            _flush_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_absent(path: str | os.PathLike[str]) -> None:
    """Raise InputError if there is anything at `path`, where `replacing_folder` is to write."""
    if _kind(_resolved(path)) != "nothing":
        raise InputError(f"'{path}' exists already: remove it, or name another folder.")


def _stream(path: str | os.PathLike[str]) -> Callable[[], BinaryIO] | None:
    """Return what opens `path` for writing if it is a stream, else None."""
    name = {"/dev/stdout": "/dev/fd/1", "/dev/stderr": "/dev/fd/2"}.get(os.fspath(path), os.fspath(path))
    descriptor = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", name)
    if descriptor:  # even if it stands for a file: what the process writes there besides must follow, not overwrite
        return lambda: _open_descriptor(int(descriptor[1]))
    _resolved(path)  # refuses what is no name
    if _kind(Path(path)) == "stream":
        return lambda: open(path, "wb", buffering=0)
    return None


def _open_descriptor(number: int) -> BinaryIO:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return os.fdopen(os.dup(number), "wb")


# Temporary names say who writes: hexadecimal digits of the machine (and its process numbers), the process, chance.
# The short form is that of version 0.1, for folders that were to hold _CACHE.
_PREFIX = ".unfinished-"
_UNFINISHED = re.compile(r"\.unfinished-(?:([0-9a-f]{8})-(\d+)-)?[a-z0-9_]{8}(?:\..*)?")
_CACHE = {"states.npy", "logits.npy"}
_ABANDONED = 24 * 3600  # seconds without a change after which something unfinished of another machine is swept


def _unfinished_beside(target: Path, path: str | os.PathLike[str], create: Callable[[Path], None]) -> Path:
    """Make a temporary file or folder beside `target`, what `path` stands for, and sweep what others left there."""
    temporary = target.parent / _unfinished_name(target.suffix)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        create(temporary)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written to ({error.strerror}): name another place.") from error
    return temporary


def _create_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less the umask, which is not touched


def _unfinished_name(suffix: str) -> str:
    return f"{_PREFIX}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{suffix}"


@cache
def _machine() -> str:
    """Return eight hex digits of the space in which process numbers are unique: this start of this container."""
    parts = [socket.gethostname()]
    with suppress(OSError):  # only Linux has them
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


def _sweep(folder: Path) -> None:
    """Delete what killed processes left unfinished in `folder`."""
    with os.scandir(folder) as entries:
        found = [entry for entry in entries if entry.name.startswith(_PREFIX)]
    for entry in found:
        with suppress(OSError):  # another process swept it, or it is not ours to delete
            if _is_abandoned(entry):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def _is_abandoned(entry: os.DirEntry[str]) -> bool:
    name = _UNFINISHED.fullmatch(entry.name)
    if name is None:
        return False
    machine, process = name.groups()
    if machine == _machine() and os.name == "posix":
        return not _is_alive(int(process))
    if machine is None and not (entry.is_dir() and set() < set(os.listdir(entry.path)) <= _CACHE):
        return False  # somebody else's, by chance of that name
    # Of another machine on a shared disk nothing is known but the time of the last change.
    changed = [entry.stat(follow_symlinks=False).st_mtime]
    if entry.is_dir(follow_symlinks=False):
        changed += [os.lstat(Path(folder, file)).st_mtime for folder, _, files in os.walk(entry.path) for file in files]
    return time.time() - max(changed) > _ABANDONED


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return not _is_zombie(process)


def _is_zombie(process: int) -> bool:
    """Whether the process has ended and nobody has asked how: so it stays where a container's first process never does.

    See `proc_pid_stat(5)`: the state follows the name in brackets, which itself may hold brackets.
    """
    try:
        state = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[:1]
    except OSError:  # only Linux has it
        return False
    return state in ([b"Z"], [b"X"])


def _flush(file: Path) -> None:
    """Wait until the content of `file` is on the disk."""
    handle = os.open(file, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(folder: Path) -> None:
    """Wait until the names in `folder` are on the disk, where the system offers that."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _full_disk_in_a_sentence(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        cause = full_disk(error)
        if cause is None:
            raise
        raise InputError(no_room(cause, path)) from error


def no_room(error: OSError, path: str | os.PathLike[str] | None = None) -> str:
    """Return the sentence for a full disk.

    Args:
        error: the system's.
        path: what was to be written; None: what the error names, if it does.
    """
    name = path if path is not None else error.filename
    if not isinstance(name, (str, os.PathLike)):
        return (
            f"A file cannot be written ({error.strerror or error}): make room, also where temporary files lie (TMPDIR)."
        )
    return f"'{name}' cannot be written ({error.strerror or error}{_free(name)}): make room, or write elsewhere."


def full_disk(error: BaseException | None) -> OSError | None:
    """Return the OSError of a full disk that `error` is or comes from (torch raises another in its place)."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def _free(path: str | os.PathLike[str]) -> str:
    folder = next((place for place in _resolved(path).parents if place.is_dir()), None)
    if folder is None:
        return ""
    return f"; {shutil.disk_usage(folder).free / 2**20:,.1f} MiB are free in '{folder}'"


def check_only_mine(folder: Path) -> None:
    """Refuse a folder whose content somebody else could have put there; for what is read in a way that can run code.

    Raises:
        InputError: if it, or anything in it, is of another user, or others can write it.
    """
    if os.name != "posix":
        return
    for path in (folder, *folder.rglob("*")):
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            continue
        by_others = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid != os.getgid())
        if found.st_uid not in (os.getuid(), 0) or by_others:
            raise InputError(
                f"'{path}' is of another user, or others can write it, so what is read from it could run their code: "
                f"use a folder of your own (chmod -R go-w '{folder}' if all in it is yours)."
            )


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let one process at a time into the block, of all that name `path`; the lock file lies beside it, hidden.

    A process that has to wait says so, once. The lock of a process that dies is free again. On a file system without
    locks all are let in.

    Raises:
        InputError: if no lock file can be made there.
    """
    lock = _acquired(Path(path))
    try:
        yield
    finally:
        lock.release()


def _acquired(target: Path) -> FileLock:
    from filelock import FileLock, Timeout

    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            getLogger().warning(f"Waiting for another process, which is making '{target}'.")
            lock.acquire()
    except NotImplementedError:  # the file system's: what is written appears whole anyway, perhaps made twice
        pass
    except OSError as error:
        raise InputError(f"'{target}' cannot be written to ({error.strerror}): name another place.") from error
    return lock


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` to `path`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON to `path`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def prefixed(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return `arrays` under names that start with `prefix`, to lie beside others in one file."""
    return {prefix + name: values for name, values in arrays.items()}


def with_prefix(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `prefixed` put among `arrays`, under the names it had; of an ``.npz`` only these are read."""
    return {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
