"""Lists for everybody: equal to one call, part by part, resumed after a kill, in processes and on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_sid.cli import main
from recbole_sid.cluster import local_ray
from recbole_sid.errors import InputError
from recbole_sid.serving.answering import Count, Wish
from recbole_sid.serving.recommender import Recommender
from recbole_sid.serving.scoring import RECORD, FolderJob, Part, PartScorer, here, processes, score

pa = pytest.importorskip("pyarrow", reason="lists for everybody are in Parquet")
parquet = pytest.importorskip("pyarrow.parquet")

N_PARTS, A_PART = 5, 37


@pytest.fixture
def bundle(transition_bundles: tuple[Path, Path]) -> Path:
    return transition_bundles[0]


def write_part(file: Path, seed: int, users: int = A_PART) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    histories = [
        [f"i{item}" for item in rng.integers(0, 33, rng.integers(0, 12))] for _ in range(users)
    ]  # some unknown
    names = [f"{file.stem}-{row}" for row in range(users)]
    parquet.write_table(pa.table({"user": names, "items": pa.array(histories, pa.list_(pa.string()))}), file)
    return histories


@pytest.fixture
def histories(tmp_path: Path) -> Path:
    folder = tmp_path / "histories"
    folder.mkdir()
    for number in range(N_PARTS):
        write_part(folder / f"part-{number}.parquet", number)
    (folder / "_SUCCESS").touch()
    (folder / ".part.parquet.crc").touch()
    return folder


def written(folder: Path) -> dict[str, int]:
    """Return the finished parts, and when they were written."""
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.parquet") if file.name[0] != "."}


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {file.name: parquet.read_table(file).to_pylist() for file in sorted(folder.glob("*.parquet"))}


def one_by_one(bundle: Path, histories: Path, wish: Wish) -> dict[str, list[dict[str, Any]]]:
    """What `Recommender` says of each user alone."""
    recommender = Recommender.load(bundle)
    expected: dict[str, list[dict[str, Any]]] = {}
    for name, rows in rows_of(histories).items():
        expected[name] = []
        for row in rows:
            (found,) = recommender.recommend(
                [row["items"]], wish.k, wish.exclude, wish.items, wish.on_unknown
            ).to_dicts()
            expected[name].append({"user": row["user"], **found})
    return expected


def same(found: dict[str, list[dict[str, Any]]], expected: dict[str, list[dict[str, Any]]]) -> None:
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        for ours, theirs in zip(found[name], rows, strict=True):
            assert ours["scores"] == pytest.approx(theirs.pop("scores"), rel=1e-6)
            assert {key: value for key, value in ours.items() if key != "scores"} == theirs


@pytest.mark.parametrize("spread", [here, processes(2)], ids=["here", "processes"])
@pytest.mark.parametrize("wish", [Wish(5), Wish(4, None, ["i1", "i2", "i3", "i9", "i20"])], ids=["seen", "allowed"])
def test_it_is_what_each_user_gets_alone(
    bundle: Path, histories: Path, tmp_path: Path, spread: Any, wish: Wish
) -> None:
    told: list[tuple[int, int]] = []
    job = FolderJob.of(bundle, histories, tmp_path / "lists", wish, batch_size=10)
    total = score(job, spread, lambda done, of, _: told.append((done, of)))
    expected = one_by_one(bundle, histories, wish)
    unknown = sum(row["how"] == "popularity" for rows in expected.values() for row in rows)
    skipped = sum(row["unknown"] for rows in expected.values() for row in rows)
    assert total == Count(N_PARTS * A_PART, unknown, skipped)
    assert told == [(done, N_PARTS) for done in range(1, N_PARTS + 1)]
    assert 0 < unknown < N_PARTS * A_PART
    same(rows_of(tmp_path / "lists"), expected)
    assert json.loads((tmp_path / "lists" / RECORD).read_text())["finished"]


def test_long_lists_are_made_for_fewer_users_at_a_time(
    bundle: Path, histories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_sid.serving.answering._LISTED", 5 * 7)
    sizes: list[int] = []
    recommend = Recommender.recommend

    def counted(self: Recommender, given: Any, *more: Any) -> Any:
        found = recommend(self, given, *more)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(Recommender, "recommend", counted)
    score(FolderJob.of(bundle, histories, tmp_path / "lists", Wish(5)), here)
    assert max(sizes) == 7


def stopping_after(count: int) -> Any:
    def spread(job: FolderJob, parts: Sequence[Part]) -> Iterator[Count]:
        yield from here(job, parts[:count])
        raise KeyboardInterrupt

    return spread


def test_a_run_that_stopped_goes_on_with_the_other_parts(
    bundle: Path, histories: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "lists"
    job = FolderJob.of(bundle, histories, output, Wish(5))
    with pytest.raises(KeyboardInterrupt):
        score(job, stopping_after(2))
    assert not json.loads((output / RECORD).read_text())["finished"]
    before = written(output)
    assert len(before) == 2
    scored: list[str] = []
    call = PartScorer.__call__
    monkeypatch.setattr(PartScorer, "__call__", lambda self, name: (scored.append(name), call(self, name))[1])
    write_part(histories / "part-9.parquet", 9)  # came later
    score(job, here)
    assert sorted(scored) == ["part-2.parquet", "part-3.parquet", "part-4.parquet", "part-9.parquet"]
    assert before.items() <= written(output).items()
    same(rows_of(output), one_by_one(bundle, histories, Wish(5)))
    score(job, lambda *_: pytest.fail("nothing is left"))


def test_a_part_that_fails_leaves_nothing_and_the_finished_ones_stay(
    bundle: Path, histories: Path, tmp_path: Path
) -> None:
    output = tmp_path / "lists"
    (histories / "part-3.parquet").write_bytes(b"PAR1 no")
    job = FolderJob.of(bundle, histories, output, Wish(5))
    with pytest.raises(InputError, match=r"part-3.parquet' is no Parquet file that can be read"):
        score(job, here)
    assert sorted(file.name for file in output.iterdir()) == [RECORD, *(f"part-{n}.parquet" for n in range(3))]


@pytest.mark.parametrize("what", ["bundle", "options", "file", "other"])
def test_an_output_of_something_else_is_refused(bundle: Path, histories: Path, tmp_path: Path, what: str) -> None:
    output = tmp_path / "lists"
    if what == "other":
        output.mkdir()
        (output / "mine.txt").touch()
    else:
        score(FolderJob.of(bundle, histories, output, Wish(5)), here)
    job = FolderJob.of(bundle, histories, output, Wish(6 if what == "options" else 5))
    if what == "bundle":
        job = FolderJob(job.bundle, job.histories, job.output, "0" * 16, job.wish)
    if what == "file":
        write_part(histories / "part-1.parquet", 100)
    with pytest.raises(InputError, match=f"holds (lists of another .*{what}|something else).* name another folder"):
        score(job, here)


def test_folders_and_bundles_that_are_none_are_refused(bundle: Path, histories: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no bundle"):
        FolderJob.of(histories, histories, tmp_path / "lists", Wish(5))
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, message in ((empty, "has no Parquet files"), (tmp_path / "none", "is no folder")):
        with pytest.raises(InputError, match=message):
            score(FolderJob.of(bundle, folder, tmp_path / "lists", Wish(5)), here)
    with pytest.raises(InputError, match=r"k is 0"):
        FolderJob.of(bundle, histories, tmp_path / "lists", Wish(0))
    assert not (tmp_path / "lists").exists()


def command(bundle: Path, histories: Path, output: Path, *further: str) -> list[str]:
    return ["recommend", str(bundle), f"--histories={histories}", f"--output={output}", "--k=5", *further]


def test_killed_with_minus_nine_and_run_again(bundle: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "many", tmp_path / "lists"
    folder.mkdir()
    for number in range(12):
        write_part(folder / f"part-{number:02}.parquet", number, users=3000)
    words = [sys.executable, "-m", "recbole_sid", *command(bundle, folder, output, "--processes=1")]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 120
    while len(written(output)) < 2:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    children = _children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while any(_is_running(child) for child in children):  # they do not outlive it
        assert time.monotonic() < until
        time.sleep(0.05)
    done = written(output)
    assert 2 <= len(done) < 12
    assert main(command(bundle, folder, output, "--processes=1")) == 0
    assert done.items() <= written(output).items()
    assert not [file for file in output.iterdir() if file.name.startswith(".unfinished")]
    rows = rows_of(output)
    assert {name: len(part) for name, part in rows.items()} == {f"part-{n:02}.parquet": 3000 for n in range(12)}
    wish, sample = Wish(5), tmp_path / "sample"
    sample.mkdir()
    for name in ("part-00.parquet", "part-11.parquet"):
        parquet.write_table(parquet.read_table(folder / name).slice(0, 50), sample / name)
    same({name: rows[name][:50] for name in ("part-00.parquet", "part-11.parquet")}, one_by_one(bundle, sample, wish))


def _children(pid: int) -> list[int]:
    file = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in file.read_text().split()] if file.is_file() else []


def _is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_a_process_that_is_killed_ends_in_a_sentence(
    bundle: Path, histories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_sid.serving.scoring._in_process", _suicide)
    assert main(command(bundle, histories, tmp_path / "lists", "--processes=2")) == 2
    assert "A process that scored was killed" in capsys.readouterr().err


def _suicide(name: str) -> Count:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--engine=spark"], "--engine: invalid|engine='spark'"),
        (["--processes=0"], "processes"),
        (["--engine=processes", "--address=h:1"], "--address is of --engine=ray"),
    ],
)
def test_options_that_mean_nothing_are_refused(
    bundle: Path, histories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    import re

    assert main(command(bundle, histories, tmp_path / "lists", *words)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "lists").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("quick_ray")
def test_it_runs_on_ray(bundle: Path, histories: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray.data", reason="Ray Data is not installed")
    output = tmp_path / "lists"
    with pytest.raises(KeyboardInterrupt):  # a part is done already, and stays
        score(FolderJob.of(bundle, histories, output, Wish(5)), stopping_after(1))
    before = written(output)
    with local_ray(1):  # which the command takes up
        assert main(command(bundle, histories, output, "--engine=ray")) == 0
        assert before.items() < written(output).items()
        same(rows_of(output), one_by_one(bundle, histories, Wish(5)))
        (histories / "part-7.parquet").write_bytes(b"PAR1 no")
        assert main(command(bundle, histories, output, "--engine=ray", "--processes=1")) == 2
    assert "part-7.parquet' is no Parquet file that can be read" in capsys.readouterr().err
