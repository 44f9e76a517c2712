"""Files are replaced whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from recbole_sid.errors import InputError
from recbole_sid.files import check_folder_writable, check_writable, replacing, write_json, write_text


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


def test_failure_of_the_rename_leaves_no_temporary_file() -> None:
    os.makedirs("table.md/full")
    with pytest.raises(OSError, match=r"table\.md"):
        write_text("table.md", "text")
    assert os.listdir() == ["table.md"]


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
