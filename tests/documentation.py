"""The blocks of code in README.md and docs/, and how they are run: as they stand, in a folder of small data."""

from __future__ import annotations

import glob
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import recbole_sid
from recbole_sid.cli import main

ROOT = Path(recbole_sid.__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = ("bash", "python")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_MARK = re.compile(r"<!-- not run: (.+?) -->\s*\Z", re.S)


class Block(NamedTuple):
    """A fenced block: its language, its text, the line it starts at, and why it is not run (empty: it is)."""

    page: str
    line: int
    language: str
    text: str
    why_not: str


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(ROOT).as_posix()
    found = []
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        mark = _MARK.search(before)
        found.append(Block(name, before.count("\n") + 1, match[1], match[2], mark[1] if mark else ""))
    return found


def run_block(block: Block, names: dict[str, Any]) -> None:
    """Run a block in the current folder; `names` are what earlier Python blocks of its page have defined."""
    if block.language == "python":
        text = re.sub(r'"(saved/\S+)"', lambda found: f'"{_file(found[1])}"', block.text)
        exec(compile(text, f"{block.page}, line {block.line}", "exec"), names)
        return
    for words in commands(block.text):
        if words[0] != "recbole-sid":
            raise AssertionError(f"{block.page}, line {block.line}: mark `{words[0]}` as not run, or teach the test")
        assert main(words[1:]) == 0, (block.page, block.line, words)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command of a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(_file(word))
            elif words:
                yield words
                words = []


def _file(word: str) -> str:
    """Return a word in which a file's name has HASH, a * or ... as the newest file that it may mean."""
    name, equals, value = word.rpartition("=")
    pattern = value.replace("HASH", "*").replace("....", "*.")
    if not value.startswith("saved/") or "*" not in pattern:
        return word
    found = sorted(glob.glob(pattern), key=lambda file: Path(file).stat().st_mtime)
    assert found, f"nothing is called {value}"
    return f"{name}{equals}{found[-1]}"
