"""A format of semantic IDs: a line ``item;code;code;...`` for each item, in files ``*.sid.txt``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.semantic_ids.formats.code_table import CodeTable, Format, code_table, in_range
from recbole_sid.util.files import write_text


def _read(path: str | os.PathLike[str]) -> CodeTable:
    rows = [line.split(";") for line in Path(path).read_text(encoding="utf-8").splitlines()]
    codes = np.array([row[1:] for row in rows], dtype=np.int64)
    return code_table(np.array([row[0] for row in rows]), in_range(codes, path), path)


def _write(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    rows = zip(semantic_ids.item_tokens.tolist(), semantic_ids.codes.tolist(), strict=True)
    write_text(path, "".join(f"{';'.join(map(str, [item, *codes]))}\n" for item, codes in rows))


LINES = Format(_read, _write, (".sid.txt",))
