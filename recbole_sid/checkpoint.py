"""Checkpoints of tensors and plain types that load without pickle, with the lineage that a mismatch is refused by."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from functools import cache
from logging import getLogger
from typing import Any

import numpy as np
import torch

from recbole_sid.errors import InputError, first_line
from recbole_sid.util.files import replacing
from recbole_sid.util.hashing import DIGITS, is_same_hash
from recbole_sid.util.item_tokens import hash_tokens
from recbole_sid.util.reading import load_tensors

FORMAT = "recbole_sid-checkpoint-1"
# What decides which interactions a model was trained on.
_DATA_KEYS = (
    "dataset USER_ID_FIELD ITEM_ID_FIELD TIME_FIELD benchmark_filename rm_dup_inter val_interval "
    "filter_inter_by_user_or_item user_inter_num_interval item_inter_num_interval"
).split()
_SPLIT_KEYS = ("split", "order", "group_by")
# In a lineage: fingerprints of the semantic IDs that the present ones continue.
_EXTENDS = "extended semantic IDs"
_CHECKSUM = "checksum"
# What every checkpoint holds.
_PARTS = {"model": str, "config": dict, "lineage": dict, "state_dict": dict}


def save_checkpoint(path: str | os.PathLike[str], content: dict[str, Any]) -> None:
    """Write `content` (tensors and plain types) to `path`.

    Raises:
        InputError: if the disk is full or nothing can be written there; a file that was there stays.
    """
    # Through a stream of Python's, so that torch's error on a full disk carries the system's.
    content = {"format": FORMAT, **{key: value for key, value in content.items() if key != _CHECKSUM}}
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        torch.save({**content, _CHECKSUM: checksum(content)}, stream)


def checksum(content: Any) -> str:
    """Return the SHA-256 (hex) of tensors and plain types, nested in dictionaries, lists and tuples."""
    digest = hashlib.sha256()
    _add(digest, content)
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    """Add `value` to `digest`, every part with its kind and size, so that no two values read the same."""
    if isinstance(value, torch.Tensor):
        digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
        digest.update(_content(value))
    elif isinstance(value, Mapping):
        digest.update(f"mapping {len(value)};".encode())
        for key, part in value.items():
            _add(digest, key)
            _add(digest, part)
    elif isinstance(value, (list, tuple)):
        digest.update(f"sequence {len(value)};".encode())
        for part in value:
            _add(digest, part)
    else:
        text = repr(value).encode("utf-8", "surrogatepass")
        digest.update(f"{type(value).__name__} {len(text)};".encode() + text)


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Say whether `path` holds one of our checkpoints (and not, for example, one of RecBole's)."""
    try:
        return _read(path, map_location="cpu", mmap=True).get("format") == FORMAT
    except Exception:  # a damaged pickle raises anything
        return False


# Keys of earlier versions, which mattered in training alone.
_GONE = frozenset({"memory_smoothing"})


def load_checkpoint(
    path: str | os.PathLike[str], model: str | None = None, map_location: Any = "cpu"
) -> dict[str, Any]:
    """Read a checkpoint written by `save_checkpoint`.

    Args:
        path: the file.
        model: the model class it must be of, if that matters.
        map_location: device of its tensors.

    Raises:
        InputError: if it is missing, damaged, no such checkpoint, or of another model.
    """
    if not os.path.isfile(path):
        raise InputError(f"There is no checkpoint at '{path}'.")
    try:
        content = _read(path, map_location=map_location)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise InputError(f"'{path}' is damaged or no checkpoint of recbole_sid ({first_line(error)}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"'{path}' is no checkpoint of recbole_sid.")
    _check_sum(content, path)
    for key, kind in _PARTS.items():
        if not isinstance(content.get(key), kind):
            raise InputError(f"'{path}' is damaged: it is marked as a checkpoint and has no usable {key}.")
    if model is not None and content["model"] != model:
        raise InputError(f"'{path}' holds a {content['model']}, not a {model}: give a checkpoint of {model}.")
    content["config"] = {key: value for key, value in content["config"].items() if key not in _GONE}
    return content


def _content(value: torch.Tensor) -> memoryview:
    """Return the bytes of a tensor's numbers; as bytes, because numpy knows no bfloat16."""
    if not value.numel():  # numpy gives such an array a stride that torch cannot view as bytes
        return memoryview(b"")
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _check_sum(content: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Raise InputError if `content`, read from `path`, is not what was written; files before 0.2 do not say."""
    if _CHECKSUM not in content:
        _warn_of_no_checksum(os.path.abspath(path), str(path))
    elif content.pop(_CHECKSUM) != checksum(content):
        raise InputError(f"'{path}' is damaged: it is not what was written (its checksum differs). Use another copy.")


@cache
def _warn_of_no_checksum(place: str, path: str) -> None:
    """Say once for each `place` that damage to `path` cannot be told; files are read several times in a run."""
    getLogger().warning(f"'{path}' is of an earlier version and has no checksum: damage to it cannot be told.")


def _read(path: str | os.PathLike[str], **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of the pickle protocol of RecBole's files
        return load_tensors(path, **options)


def training_part(train_dataset: Any) -> str:
    """Return 16 hex digits over the sequences of the training part."""
    items, offsets = train_dataset.training_sequences()
    digest = hashlib.sha256()
    for numbers in (items, offsets):
        digest.update(np.ascontiguousarray(numbers, dtype=np.int64).data)  # in 64 bits, however they are kept
    return digest.hexdigest()[:DIGITS]


def lineage(config: Any, dataset: Any) -> dict[str, str]:
    """Return what a model was trained on: dataset name, item tokens and semantic IDs (hashes); for semantic IDs with
    later items, which ones they extend; without semantic IDs, the training part.
    """
    if dataset.semantic_ids is None:
        return lineage_without_semantic_ids(config, dataset)
    extends = dataset.semantic_ids.extends
    return {
        **_of_items(config, dataset),
        "semantic IDs": dataset.semantic_ids.fingerprint,
        **({_EXTENDS: " ".join(extends)} if extends else {}),
    }


def lineage_without_semantic_ids(config: Any, dataset: Any) -> dict[str, str]:
    """Return the `lineage` of a model that knows no semantic IDs, whether or not `dataset` has them."""
    return {**_of_items(config, dataset), "training part": training_part(dataset)}


def _of_items(config: Any, dataset: Any) -> dict[str, str]:
    return {"dataset": config["dataset"], "item tokens": hash_tokens(dataset.item_tokens())}


def hash_weights(module: torch.nn.Module) -> str:
    """Return 16 hex digits over the names and values of a module's weights."""
    return hash_state(module.state_dict())[:DIGITS]


def hash_state(state: Mapping[str, torch.Tensor]) -> str:
    """Return 64 hex digits over the names and values of weights, such as a checkpoint's ``state_dict``."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(_content(value))
    return digest.hexdigest()


def check_lineage(path: str | os.PathLike[str], recorded: dict[str, str], current: dict[str, str]) -> None:
    """Refuse a checkpoint trained on something else.

    Semantic IDs that extend the checkpoint's are accepted, and so are their further items: weights belong to codes, and
    those of the old items are unchanged.

    Raises:
        InputError: names what differs, both ways.
    """
    earlier = current.get(_EXTENDS, "").split()
    extended = any(is_same_hash(recorded.get("semantic IDs"), one) for one in earlier)
    may_differ = {_EXTENDS, "item tokens", "semantic IDs"} if extended else {_EXTENDS}
    for what, value in current.items():
        if what not in may_differ and not _is_same(what, recorded.get(what), value):
            raise InputError(
                f"'{path}' was trained with {what} {recorded.get(what)} but this run has {what} {value}: use the same "
                "dataset, semantic IDs (they depend on the seed; semantic_ids_path fixes them) and teacher, or another "
                "checkpoint."
            )


def _is_same(what: str, recorded: str | None, current: str) -> bool:
    return recorded == current if what == "dataset" else is_same_hash(recorded, current)  # else all are hashes


def data_difference(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], further: tuple[str, ...] = ()
) -> tuple[str, Any, Any] | None:
    """Return the first setting of two runs by which their training data may differ, with both values; None: the same.

    Args:
        theirs, ours: settings of the runs.
        further: keys that must be equal too.
    """
    pairs = {key: (theirs.get(key), ours.get(key)) for key in (*_DATA_KEYS, *further)}
    split, our_split = (settings.get("eval_args") or {} for settings in (theirs, ours))
    pairs |= {f"eval_args.{key}": (split.get(key), our_split.get(key)) for key in _SPLIT_KEYS}
    return next(((key, their, our) for key, (their, our) in pairs.items() if their != our), None)


def load_weights(model: torch.nn.Module, state: dict[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    """Load `state` into `model`.

    Raises:
        InputError: if names or shapes do not fit, or a weight is not a number (NaN).
    """
    kept = model.state_dict()
    for name, value in state.items():
        usable = isinstance(value, torch.Tensor) and (name not in kept or value.is_complex() == kept[name].is_complex())
        if not usable:  # of complex numbers torch would drop the imaginary part
            raise InputError(f"'{path}' is damaged: its weight {name} is no tensor of real numbers.")
        if value.is_floating_point() and bool(value.isnan().any()):
            raise InputError(
                f"The weights in '{path}' are not all numbers ({name} holds NaN): the file is of a training that "
                "diverged, or damaged; use another checkpoint."
            )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"The weights in '{path}' do not fit {type(model).__name__} as configured: "
            f"{' '.join(str(error).split())[:300]}"
        ) from error
