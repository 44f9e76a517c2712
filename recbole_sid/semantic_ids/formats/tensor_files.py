"""Semantic IDs as a tensor [levels, items] of torch."""

from __future__ import annotations

import os

import numpy as np

from recbole_sid.errors import InputError, first_line
from recbole_sid.semantic_ids.artefact import SemanticIDs, check_levels
from recbole_sid.semantic_ids.formats.code_table import CodeTable, Format, code_table, in_range, numbered_rows
from recbole_sid.util.files import replacing
from recbole_sid.util.reading import is_plain_tensor, load_tensors


def _read_tensor(path: str | os.PathLike[str]) -> CodeTable:
    """Read a tensor [levels, items]; column j is item number j."""
    import torch

    try:
        codes = load_tensors(path)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"'{path}' is no tensor that torch loads without pickle ({first_line(error)}).") from error
    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if not is_plain_tensor(codes) or codes.dim() != 2 or codes.dtype not in whole:
        raise InputError(
            f"'{path}' must hold one tensor of whole numbers [levels, items] (for a model's weights, say which model: "
            "--model=TIGER)."
        )
    if codes.shape[0] > codes.shape[1] or codes.numel() == 0:
        raise InputError(f"'{path}' has shape {tuple(codes.shape)}: it must be [levels, items].")
    check_levels(codes.shape[0], f"'{path}'")
    table = codes.T.long().numpy()
    return code_table(np.arange(len(table)).astype(str), in_range(table, path), path)


def _write_tensor(semantic_ids: SemanticIDs, path: str | os.PathLike[str]) -> None:
    import torch

    codes = semantic_ids.codes[numbered_rows(semantic_ids, path)]
    with replacing(path) as temporary, open(temporary, "wb") as stream:  # a stream: see save_checkpoint
        torch.save(torch.from_numpy(codes.T.copy()), stream)


TENSOR = Format(_read_tensor, _write_tensor, (".pt", ".pth"))
