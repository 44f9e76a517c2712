"""Lists for everybody: a folder of Parquet files with histories into a folder of Parquet files with lists.

The unit of work is a part, a file of the input: read batch by batch, written to a temporary name, renamed when whole.
What has its final name is finished, so that a run that was killed goes on with the other parts. Parts are spread over
processes of this machine or, by Ray Data, over a cluster; memory depends neither on their number nor on their length.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recbole_sid.errors import InputError
from recbole_sid.serving.answering import BATCH, Count, Wish, answer, batch_size
from recbole_sid.serving.history_files import read_histories
from recbole_sid.serving.list_files import writing_lists
from recbole_sid.serving.recommender import Recommender
from recbole_sid.util.files import write_json
from recbole_sid.util.hashing import DIGITS, fingerprint
from recbole_sid.util.processes import without_callers_script
from recbole_sid.util.reading import read_json

RECORD = "job.json"  # beside the lists: what they are of, and whether all are there
_THREADS = "OMP_NUM_THREADS"
_TAIL = 1 << 16  # bytes at the end of a part, where Parquet says what it holds


class Part(NamedTuple):
    """A file of the input.

    Attributes:
        name: of the file, and of its lists'.
        content: its number of bytes and a hash over the last of them.
    """

    name: str
    content: str


@dataclass(frozen=True)
class FolderJob:
    """What is to be done.

    Attributes:
        bundle, histories, output: folders, absolute; on a cluster, ones that all nodes see.
        identity: the bundle's.
        wish: what is asked for after every history.
        batch_size: users that are ranked together, fewer if their lists are long.
    """

    bundle: str
    histories: str
    output: str
    identity: str
    wish: Wish
    batch_size: int = BATCH

    @classmethod
    def of(cls, bundle: Any, histories: Any, output: Any, wish: Wish, batch_size: int = BATCH) -> FolderJob:
        """Return the job of scoring a folder by a bundle.

        Raises:
            InputError: if the bundle is none, is damaged, or an id that `wish` names for all is unknown.
        """
        from recbole_sid.serving.bundle import Bundle

        opened = Bundle.load(bundle)
        Recommender.of_bundle(opened).recommend([], wish.k, wish.exclude, wish.items, wish.on_unknown)
        places = {"bundle": bundle, "histories": histories, "output": output}
        folders = {name: str(Path(folder).resolve()) for name, folder in places.items()}
        return cls(**folders, identity=opened.identity, wish=wish, batch_size=batch_size)

    def parts(self) -> list[Part]:
        """Return the files of the input, by name.

        Raises:
            InputError: if there are none, or one cannot be read.
        """
        folder = Path(self.histories)
        if not folder.is_dir():
            raise InputError(f"'{folder}' is no folder: name one of Parquet files with the columns user and items.")
        files = sorted(file for file in folder.glob("*.parquet") if file.is_file() and file.name[0] not in "._")
        if not files:
            raise InputError(f"'{folder}' has no Parquet files: name a folder of *.parquet.")
        return [Part(file.name, _content(file)) for file in files]

    def begin(self, parts: Sequence[Part]) -> list[Part]:
        """Write down what the output is of, or check it; return the parts that are still to do.

        Raises:
            InputError: if the output holds lists of another job, or something else.
        """
        output, record = Path(self.output), Path(self.output, RECORD)
        asked = {"bundle": self.identity, "wish": fingerprint(asdict(self.wish))}
        if record.is_file():
            _check_same(output, _read_record(record), asked, parts)
        elif output.exists() and (not output.is_dir() or any(file.name[0] != "." for file in output.iterdir())):
            raise InputError(f"'{output}' holds something else than lists of this command: name another folder.")
        done = [part for part in parts if (output / part.name).is_file()]
        self._write(asked, parts, finished=len(done) == len(parts))
        return [part for part in parts if part not in set(done)]

    def end(self, parts: Sequence[Part]) -> None:
        """Write down that all lists are there."""
        record = _read_record(Path(self.output, RECORD))
        self._write({key: record[key] for key in ("bundle", "wish")}, parts, finished=True)

    def _write(self, asked: dict[str, str], parts: Sequence[Part], finished: bool) -> None:
        write_json(Path(self.output, RECORD), {**asked, "parts": dict(parts), "finished": finished})


class PartScorer:
    """Scores parts; loads the bundle once.

    Args:
        job: of which the parts are.
        verify: whether the bundle's files are checked against their hashes.
    """

    def __init__(self, job: FolderJob, verify: bool = True) -> None:
        from recbole_sid.serving.bundle import Bundle

        bundle = Bundle.load(job.bundle, verify)
        if bundle.identity != job.identity:
            raise InputError(f"'{job.bundle}' is no longer the bundle that this run began with: run the command again.")
        self.job, self.recommender = job, Recommender.of_bundle(bundle)

    def __call__(self, name: str) -> Count:
        """Write the lists of a part; they are there whole or not at all."""
        count, size = Count(), min(self.job.batch_size, batch_size(self.recommender, self.job.wish))
        with writing_lists(Path(self.job.output, name)) as write:
            for batch in read_histories(Path(self.job.histories, name), size):
                found = answer(self.recommender, batch, self.job.wish)
                write(found)
                count = count.plus(found)
        return count


Spread = Callable[[FolderJob, Sequence[Part]], Iterable[Count]]


def score(job: FolderJob, spread: Spread, tell: Callable[[int, int, Count], None] = lambda *_: None) -> Count:
    """Do what is left of a job.

    Args:
        job: what is to be done.
        spread: yields what each part came to, in any order: `here`, `processes(n)`, or `ray_scoring.on_ray(n)`.
        tell: told after every part how many are done, of how many, and the counts so far.

    Raises:
        InputError: if a file cannot be read or written, a history cannot be used, or a process was killed; parts that
            are finished stay, and the same command goes on with the others.
    """
    parts = job.parts()
    left = job.begin(parts)
    done, total = len(parts) - len(left), Count()
    for found in spread(job, left) if left else ():
        done, total = done + 1, Count(*map(sum, zip(total, found, strict=True)))
        tell(done, len(parts), total)
    job.end(parts)
    return total


def here(job: FolderJob, parts: Sequence[Part]) -> Iterator[Count]:
    """Score parts in this process."""
    scorer = PartScorer(job, verify=False)
    yield from (scorer(part.name) for part in parts)


def processes(n_processes: int) -> Spread:
    """Return what scores parts in processes of this machine, which share the bundle's pages of memory."""

    def spread(job: FolderJob, parts: Sequence[Part]) -> Iterator[Count]:
        count = min(n_processes, len(parts))
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count, spawn, _start_process, (job,)) as pool:
            try:
                with _threads_each(max(1, (os.cpu_count() or 1) // count)), without_callers_script():
                    tasks = [pool.submit(_in_process, part.name) for part in parts]
                for task in as_completed(tasks):
                    yield task.result()
            except BrokenProcessPool as error:
                raise InputError(
                    "A process that scored was killed (by hand, or for want of memory; --processes takes fewer): run "
                    "the same command again, it goes on where this one stopped."
                ) from error
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    return spread


@contextmanager
def _threads_each(number: int) -> Iterator[None]:
    """Let libraries in processes that are started now use so many threads, unless the user has said how many."""
    before = os.environ.get(_THREADS)
    os.environ.setdefault(_THREADS, str(number))
    try:
        yield
    finally:
        if before is None:
            del os.environ[_THREADS]


_scorer: PartScorer | None = None  # of a process of `processes`


def _start_process(job: FolderJob) -> None:
    global _scorer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _scorer = PartScorer(job, verify=False)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone: killed, it cannot say so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _in_process(name: str) -> Count:
    assert _scorer is not None
    return _scorer(name)


def _content(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL))
            return f"{size}-{hashlib.sha256(stream.read()).hexdigest()[:DIGITS]}"
    except OSError as error:
        raise InputError(f"'{file}' cannot be read ({error.strerror}).") from error


def _read_record(file: Path) -> dict[str, Any]:
    found = read_json(file)
    kinds = {"bundle": str, "wish": str, "parts": dict}
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
        raise InputError(f"'{file}' is damaged: remove its folder, or name another one.")
    return found


def _check_same(output: Path, recorded: dict[str, Any], asked: dict[str, str], parts: Sequence[Part]) -> None:
    """Refuse an output that was begun with another bundle, other options or other histories; new parts may join."""
    now = dict(parts)
    differs = [key for key in asked if recorded[key] != asked[key]]
    differs += [name for name, content in recorded["parts"].items() if now.get(name) != content][:1]
    if differs:
        what = {"bundle": "bundle", "wish": "list of options (k, exclude, ...)"}
        other = what.get(differs[0], f"file {differs[0]!r}")
        raise InputError(f"'{output}' holds lists of another {other}: name another folder, or remove that one.")
