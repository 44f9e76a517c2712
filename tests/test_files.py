"""Files are replaced whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from recbole_sid.files import replacing, write_json, write_text


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
