"""Files are replaced whole or not at all."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_sid.errors import InputError
from recbole_sid.util.files import (
    check_folder_writable,
    check_writable,
    replacing,
    replacing_folder,
    write_json,
    write_text,
)


def test_replacing_writes_the_new_content() -> None:
    write_text("table.md", "old")
    with replacing("table.md") as temporary:
        temporary.write_text("new", encoding="utf-8")
        assert Path("table.md").read_text(encoding="utf-8") == "old"
    assert Path("table.md").read_text(encoding="utf-8") == "new"
    assert os.listdir() == ["table.md"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_nothing_else(error: type[BaseException]) -> None:
    write_text("table.md", "old")
    with pytest.raises(error), replacing("table.md") as temporary:  # noqa: PT012 (the block is what is tested)
        temporary.write_text("half", encoding="utf-8")
        raise error
    assert Path("table.md").read_text(encoding="utf-8") == "old"
    assert os.listdir() == ["table.md"]


def test_failure_of_a_first_write_leaves_no_file() -> None:
    with pytest.raises(ValueError, match="stop"), replacing("folder/table.md"):
        raise ValueError("stop")
    assert os.listdir("folder") == []


def test_a_folder_is_not_replaced() -> None:
    os.makedirs("empty")
    os.makedirs("full/inner")
    for folder in ("empty", "full"):
        with pytest.raises(InputError, match="is a folder"):
            write_text(folder, "text")
    assert sorted(os.listdir()) == ["empty", "full"]


def test_the_target_of_a_symbolic_link_is_written() -> None:
    write_text("folder/old.json", "old")
    os.symlink("folder/old.json", "link.json")
    os.symlink("folder/new.json", "dangling.json")
    write_text("link.json", "new")
    write_text("dangling.json", "text")
    assert os.path.islink("link.json")
    assert os.path.islink("dangling.json")
    assert Path("folder/old.json").read_text(encoding="utf-8") == "new"
    assert Path("folder/new.json").read_text(encoding="utf-8") == "text"


def test_what_is_for_a_device_or_pipe_goes_through_it() -> None:
    before = os.stat("/dev/null")
    write_text("/dev/null", "text")
    after = os.stat("/dev/null")
    assert stat.S_ISCHR(after.st_mode)
    assert (after.st_ino, after.st_ctime) == (before.st_ino, before.st_ctime)
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_json("pipe", [1, 2])
    assert json.loads(os.read(reader, 100)) == [1, 2]
    os.close(reader)
    assert os.listdir() == ["pipe"]


def test_a_full_device_is_a_sentence() -> None:
    with pytest.raises(InputError, match=r"'/dev/full' cannot be written \(No space left on device"):
        write_text("/dev/full", "text")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/fd/1"])
@pytest.mark.parametrize("to_file", [True, False])
def test_standard_output_can_be_named(name: str, to_file: bool) -> None:
    """Also where it is redirected to a file: what is printed before and after stays."""
    code = (
        "from recbole_sid.util.files import write_text, check_writable; "
        f"check_writable({name!r}); print('before'); write_text({name!r}, 'text\\n'); print('after')"
    )
    if to_file:
        with open("out.txt", "wb") as stream:
            subprocess.run([sys.executable, "-c", code], stdout=stream, check=True)
        out = Path("out.txt").read_text(encoding="utf-8")
    else:
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "before\ntext\nafter\n"


def test_temporary_file_has_the_ending_of_the_target() -> None:
    """Writers such as numpy and matplotlib go by it."""
    with replacing("saved/ids.npz") as temporary:
        assert temporary.suffix == ".npz"
        assert temporary.parent.resolve() == Path("saved").resolve()


def test_permissions_follow_the_umask() -> None:
    before = os.umask(0o027)
    try:
        write_text("table.md", "text")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert os.stat("table.md").st_mode & 0o777 == 0o640


def test_the_umask_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the process's: another thread's files would get its permissions."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("umask was set"))
    write_text("table.md", "text")


def test_a_replaced_file_keeps_its_permissions() -> None:
    write_text("table.md", "old")
    os.chmod("table.md", 0o600)
    write_text("table.md", "new")
    assert os.stat("table.md").st_mode & 0o777 == 0o600


def test_content_is_on_the_disk_before_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    flush, rename = os.fsync, os.replace

    def fsync(handle: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        flush(handle)

    def replace(*names: str) -> None:
        order.append("rename")
        rename(*names)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_text("table.md", "text")
    assert order == ["file", "rename", "folder"]


def test_what_a_killed_process_left_is_swept() -> None:
    code = (
        "import os, signal; from recbole_sid.util.files import replacing, replacing_folder\n"
        "with replacing('a.npz'), replacing_folder('cache') as folder:\n"
        "    (folder / 'states.npy').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(os.listdir()) == 2
    write_text("table.md", "text")
    assert os.listdir() == ["table.md"]


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="only Linux tells zombies apart")
def test_what_a_killed_process_left_that_nobody_waited_for_is_swept() -> None:
    """A container's first process often asks none of its orphans how they ended: they stay, as zombies."""
    code = (
        "import os, signal; from recbole_sid.util.files import replacing\n"
        "with replacing('a.npz'): print(flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read()  # to the end: it is dead, and not waited for
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert len(os.listdir()) == 1
        write_text("table.md", "text")
        assert os.listdir() == ["table.md"]


def test_only_what_is_abandoned_is_swept() -> None:
    with replacing("a.txt") as mine, replacing_folder("b") as folder:
        other = Path(f".unfinished-{'0' * 8}-{os.getpid()}-{'1' * 8}.npz")
        other.write_text("of another machine", encoding="utf-8")
        earlier = Path(".unfinished-ab_cd012")
        earlier.mkdir()
        (earlier / "states.npy").write_text("of version 0.1", encoding="utf-8")
        foreign = Path(".unfinished-business")
        foreign.mkdir()
        os.utime(foreign, (0, 0))
        os.utime(earlier, (0, 0))
        write_text("c.txt", "text")
        assert all(path.exists() for path in (mine, folder, other, earlier, foreign))
        os.utime(other, (0, 0))
        os.utime(earlier / "states.npy", (0, 0))
        write_text("c.txt", "text")
        assert mine.exists()
        assert folder.exists()
        assert foreign.exists()
        assert not other.exists()
        assert not earlier.exists()


def test_a_folder_appears_whole_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="stop"), replacing_folder("at/cache") as folder:  # noqa: PT012
        (folder / "a.txt").write_text("half", encoding="utf-8")
        raise ValueError("stop")
    assert os.listdir("at") == []
    with replacing_folder("at/cache") as folder:
        (folder / "a.txt").write_text("text", encoding="utf-8")
        assert not Path("at/cache").exists()
    assert os.listdir("at") == ["cache"]
    assert Path("at/cache/a.txt").read_text(encoding="utf-8") == "text"
    with pytest.raises(InputError, match="exists already"), replacing_folder("at/cache"):
        pass


@pytest.mark.parametrize(
    "write",
    [
        "from recbole_sid.checkpoint import save_checkpoint; import torch\n"
        "save_checkpoint('out', {'model': 'X', 'state': torch.zeros(10**6)})",
        "from recbole_sid.util.files import write_text\nwrite_text('out', 'x' * 10**6)",
        "import pandas; from recbole_sid.util.files import replacing\n"
        "with replacing('out') as t: pandas.DataFrame({'a': range(10**6)}).to_parquet(t)",
    ],
    ids=["checkpoint", "text", "parquet"],
)
def test_a_full_disk_is_one_sentence_and_leaves_the_old_file(write: str) -> None:
    write_text("out", "old")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    done = subprocess.run([sys.executable, "-c", limit + write], capture_output=True, text=True)
    assert done.returncode == 1
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("recbole_sid.errors.InputError: 'out' cannot be written (")
    assert "File too large" in sentence
    assert "MiB are free" in sentence
    assert os.listdir() == ["out"]
    assert Path("out").read_text(encoding="utf-8") == "old"


def test_json_reads_back() -> None:
    value = {"rows": [{"model": "TIGER", "ndcg@10": 0.5, "share_of_teacher": None}], "name": "süß"}
    write_json("folder/result.json", value)
    text = Path("folder/result.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert text.endswith("}\n")


@pytest.mark.parametrize("path", ["new.json", "a/b/new.json", "a/b/", "old.json", "/dev/null", "link.json"])
def test_check_of_what_can_be_written_leaves_nothing_behind(path: str) -> None:
    write_text("old.json", "old")
    os.symlink("old.json", "link.json")
    check_writable(path)
    assert sorted(os.listdir()) == ["link.json", "old.json"]
    assert Path("old.json").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("folder", "is a folder"),
        ("old.json/new.json", "is no folder"),
        ("old.json/", "is no folder"),
        ("", "no name"),
        ("x" * 300, "cannot be written to"),
        ("a\0b", "no name"),
        ("/proc/new.json", "cannot be written to"),
    ],
)
def test_what_cannot_be_written_is_refused_in_a_sentence(path: str, problem: str) -> None:
    write_text("old.json", "old")
    os.mkdir("folder")
    with pytest.raises(InputError, match=problem):
        check_writable(path)
    assert sorted(os.listdir()) == ["folder", "old.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permissions_are_checked() -> None:
    os.mkdir("closed", mode=0o500)
    for check, path in ((check_writable, "closed/new.json"), (check_folder_writable, "closed/new")):
        with pytest.raises(InputError, match="cannot be written to"):
            check(path)


def test_output_folders_are_checked_and_not_made() -> None:
    write_text("old.json", "old")
    check_folder_writable("a/b")
    check_folder_writable(".")
    with pytest.raises(InputError, match="is no folder"):
        check_folder_writable("old.json")
    with pytest.raises(InputError, match="cannot be written to"):
        check_folder_writable("/proc/new")
    assert os.listdir() == ["old.json"]
