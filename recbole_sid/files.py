"""Writing files so that an interruption leaves the old file or the new one, never half of one."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recbole_sid.errors import InputError


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
    target = _resolved(path)
    kind = _kind(target)
    if kind == "folder":
        raise InputError(f"'{path}' is a folder and a file is to be written there: name a file, for example in it.")
    if kind == "other":
        raise InputError(f"'{path}' is neither a file nor a pipe, so nothing can be written there: name a file.")
    if kind == "stream":
        if not os.access(target, os.W_OK):
            raise InputError(f"'{path}' cannot be written to (permission denied): name another file.")
        return
    if kind == "file" and not os.access(target, os.W_OK):  # a rename would get past this, which nobody expects
        raise InputError(f"'{path}' is write-protected: name another file, or make it writable.")
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
        if nearest == folder:
            handle, name = tempfile.mkstemp(dir=nearest, prefix=_PREFIX)
            os.close(handle)
            os.unlink(name)
        else:
            os.rmdir(tempfile.mkdtemp(dir=nearest, prefix=_PREFIX))
    except OSError as error:
        raise InputError(
            f"'{path}' cannot be written to ({error.strerror} in '{nearest}'): name another place, or make that "
            "folder writable."
        ) from error


# What temporary names begin with.
_PREFIX = ".unfinished-"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` if the block succeeds, else delete it."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let one process at a time into the block, of all that name `path`; the lock file lies beside it, hidden.

    The lock of a process that dies is free again.
    """
    from filelock import FileLock

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / f".{target.name}.lock"):
        yield


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
