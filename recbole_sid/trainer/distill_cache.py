"""Cached supervision: the frozen models run once over the training set, students read half-precision results.

States are packed without padding, so the cache holds exactly the tokens there are; of a causal encoder, once for all
histories that begin with them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from contextlib import nullcontext
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from recbole_sid.checkpoint import hash_weights
from recbole_sid.data.dataset import ROW_FIELD
from recbole_sid.data.histories import cut_histories
from recbole_sid.distributed.group import current_group
from recbole_sid.errors import InputError
from recbole_sid.model.supervision import OnlineSupervision, Supervise, Supervision
from recbole_sid.util.files import locked, replacing_folder, write_json
from recbole_sid.util.hardware import moved
from recbole_sid.util.progress import progress
from recbole_sid.util.reading import read_json

_FILES = ("states.npy", "logits.npy")
_MANIFEST = "manifest.json"  # of sizes and hashes; written last
_CHUNK = 1 << 24
_BYTES = torch.float16.itemsize


def cached_if_asked(
    config: Any, online: OnlineSupervision, loader: Any, show_progress: bool, shared: bool = True
) -> Supervise:
    """Return `online`, or its answers for all rows of a training loader as ``distill_cache`` keeps them.

    Args:
        shared: whether other runs have a use for them, which ``distill_cache_dir`` is for.
    """
    where = config["distill_cache"] or "none"
    if where == "none":
        return online
    folder = Path(config["checkpoint_dir"]) / "distill_cache"
    if shared and config["distill_cache_dir"]:
        folder = Path(config["distill_cache_dir"])
    return CachedSupervision(online, loader, config["device"], folder if where == "disk" else None, show_progress)


class CachedSupervision:
    """Supervision of every training row, in half precision, in memory or in memory-mapped files.

    Args:
        online: computes what is not on disk yet.
        loader: the training loader.
        device: where batches go.
        folder: where files are kept and reused by later runs with the same weights and data; None: in memory, of each
            process of a group. These compute a part each; the main one writes.
        show_progress: show a bar.
    """

    def __init__(
        self, online: OnlineSupervision, loader: Any, device: torch.device, folder: Path | None, show_progress: bool
    ) -> None:
        dataset = loader._dataset
        self.where = "memory" if folder is None else "disk"
        self.rows = dataset.inter_feat[ROW_FIELD]
        self.lengths = dataset.inter_feat[dataset.item_list_length_field]
        self.device, self.group = device, current_group()
        self.place = torch.full((int(self.rows.max()) + 1,), -1)
        self.place[self.rows] = torch.arange(len(self.rows))
        self.histories = getattr(dataset, f"{dataset.iid_field}_list_field")
        self.n_levels = dataset.semantic_ids.n_levels
        self.n_tokens = 2 + self.lengths.long() * self.n_levels
        self.causal = online.encoder is not None and online.encoder.causal
        begins = dataset.history_start[self.rows] if self.causal else torch.arange(len(self.rows))
        self.places = _Places.of(begins, self.n_tokens)
        self.sizes = list(dataset.semantic_ids.codebook_sizes) if online.teacher is not None else []
        self.states = self.logits = torch.empty(0)
        if folder is None:
            self._fill(online, loader, None, show_progress)
            return
        target = folder / self._key(online, dataset)
        folder.mkdir(parents=True, exist_ok=True)
        # Trials of a search make it once; the others wait.
        once = locked(folder.parent / f"{folder.name}-{target.name}") if self.group.is_main else nullcontext()
        with once:
            if self.group.from_main(self.group.is_main and _is_kept(target)):
                getLogger().info(f"Distillation cache reused from {target}")
            else:
                self._write(online, loader, target, show_progress)
        self.group.barrier()
        self.states, self.logits = (_open(target / file) for file in _FILES)

    def __call__(self, interaction: Any) -> Supervision:
        row = self.place[interaction[ROW_FIELD].cpu()]  # on the host already in a loader's batch
        index, valid = self._packed(row, self._width(interaction))
        states = moved(self.states[index].masked_fill_(~valid.unsqueeze(-1), 0), self.device).float()
        logits = list(moved(self.logits[row], self.device).float().split(self.sizes, dim=1)) if self.sizes else []
        return Supervision(states, moved(valid, self.device), logits)

    def _write(self, online: OnlineSupervision, loader: Any, target: Path, show_progress: bool) -> None:
        """Fill files in a folder beside `target` and rename it; in a group the main process does, the others help."""
        if not self.group.is_main:
            self._fill(online, loader, target, show_progress)
            return
        with replacing_folder(target) as unfinished:
            self._fill(online, loader, unfinished, show_progress)
            self.states = self.logits = torch.empty(0)  # closes the files
            write_json(unfinished / _MANIFEST, {file: _seal(unfinished / file) for file in _FILES})
        getLogger().info(f"Distillation cache written to {target}")

    def _fill(self, online: OnlineSupervision, loader: Any, folder: Path | None, show_progress: bool) -> None:
        """Ask for all rows; each process asks for one batch of every round."""
        # Neighbours of like length: little padding. The longest last, of which shared states are then.
        order = torch.argsort(self.lengths, stable=True)
        batches, n = order.split(loader.step), self.group.size
        collect = self.group.gather if folder is None else self.group.to_main
        for first in progress(range(0, len(batches), n), "Cache teacher", show_progress):
            together = batches[first : first + n]
            own = together[self.group.rank : self.group.rank + 1]
            answers = collect([self._answer(online, loader, batch) for batch in own])
            for batch, answer in zip(together, answers, strict=False):
                self._keep(folder, batch, *answer[0])

    def _answer(
        self, online: OnlineSupervision, loader: Any, batch: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return packed states [tokens of the batch, d] and, if they are wanted, logits [B, sum of sizes]."""
        rows = cut_histories(loader._dataset[batch], self.histories, loader._dataset.item_list_length_field)
        given = online(rows.to(self.device))
        _, valid = self._packed(batch, self._width(rows))
        logits = torch.cat(given.logits, dim=1).half().cpu() if self.sizes else None
        return given.states.half().cpu()[valid], logits  # halved first: half as much to copy

    def _keep(
        self, folder: Path | None, batch: torch.Tensor, states: torch.Tensor, logits: torch.Tensor | None
    ) -> None:
        if not len(self.logits):
            self._check_room(folder, states.shape[-1])
            self.logits = _allocate(folder, "logits", (len(self.rows), sum(self.sizes)))
            self.states = _allocate(folder, "states", (self.places.total, states.shape[-1]))
        index, valid = self._packed(batch, int(self.n_tokens[batch].max()))
        places, which = torch.unique(index[valid], return_inverse=True)
        # Of histories that share a state the last here: whichever torch's threads wrote last otherwise.
        last = torch.zeros_like(places).scatter_reduce_(0, which, torch.arange(len(which)), "amax")
        self.states[places] = states[last]
        if logits is not None:
            self.logits[batch] = logits

    def _check_room(self, folder: Path | None, width: int) -> None:
        """Say how much the states, each of `width` numbers, and logits take before any is kept.

        Raises:
            InputError: if the memory, or the disk that `folder` is on, has not as much left.
        """
        size = _BYTES * (self.places.total * width + len(self.rows) * sum(self.sizes))
        if folder is None:
            place, free, other = "memory", psutil.virtual_memory().available, "disk"
        else:
            place, free, other = f"disk at '{folder.parent}'", shutil.disk_usage(folder).free, "none"
        says = f"the distillation cache of {len(self.rows):,} histories takes {size / 1e9:,.1f} GB of {place}"
        if size > free:
            raise InputError(
                f"distill_cache={self.where}: {says}, of which {free / 1e9:,.1f} GB are free: set distill_cache to "
                f"{other}, or train on shorter histories (MAX_ITEM_LIST_LENGTH)."
            )
        getLogger().info(f"{says[0].upper()}{says[1:]}.")

    def _width(self, interaction: Any) -> int:
        """Return how many tokens the histories of a batch are serialised to."""
        return 2 + interaction[self.histories].shape[1] * self.n_levels

    def _packed(self, row: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return positions in the packed states [B, width], and bool [B, width] which of them are the rows' own."""
        n_tokens = self.n_tokens[row].unsqueeze(1)
        step = torch.arange(width)
        valid = step < n_tokens
        shared = self.places.start[row].unsqueeze(1) + step
        return torch.where(step + 1 < n_tokens, shared, self.places.end[row].unsqueeze(1)) * valid, valid

    def _key(self, online: OnlineSupervision, dataset: Any) -> str:
        """Return a name for the weights, histories and targets that the cache holds results of."""
        digest = hashlib.sha256(dataset.semantic_ids.fingerprint.encode())
        digest.update(b"shared" if self.causal else b"")
        fields = [dataset.sequences[field] for field in (dataset.uid_field, dataset.iid_field)]
        for values in (self.rows, self.lengths, *fields):
            digest.update(values.numpy().tobytes())
        for module in (online.encoder, online.teacher):
            digest.update(b"-" if module is None else hash_weights(module).encode())
        return digest.hexdigest()[:16]


class _Places(NamedTuple):
    """Where the states of each history are kept: in one run, but for the last one.

    Attributes:
        start: int64 [n], of the first state; those up to the last but one follow it.
        end: int64 [n], of the last state, which is that of the end-of-sequence token.
        total: number of places.
    """

    start: torch.Tensor
    end: torch.Tensor
    total: int

    @classmethod
    def of(cls, begins: torch.Tensor, n_tokens: torch.Tensor) -> _Places:
        """Give histories int [n] that begin at the same place the same run, as long as the longest of them needs."""
        which = torch.unique(begins, return_inverse=True)[1]
        n_runs = int(which.max()) + 1 if len(which) else 0
        longest = torch.zeros(n_runs, dtype=torch.int64).scatter_reduce_(0, which, n_tokens - 1, "amax")
        run_ends = longest.cumsum(0)
        n_shared = int(run_ends[-1]) if n_runs else 0
        return cls((run_ends - longest)[which], n_shared + torch.arange(len(begins)), n_shared + len(begins))


class JoinedSupervision:
    """States of one supervision with the logits of another.

    Args:
        states: gives the states.
        logits: gives the teacher's logits.
    """

    def __init__(self, states: CachedSupervision, logits: CachedSupervision) -> None:
        self.states = states
        self.logits = logits

    def __call__(self, interaction: Any) -> Supervision:
        return self.states(interaction)._replace(logits=self.logits(interaction).logits)


def _allocate(folder: Path | None, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a float16 tensor to fill, backed by ``folder/name.npy`` unless `folder` is None."""
    if folder is None or 0 in shape:
        if folder is not None:
            np.save(folder / f"{name}.npy", np.zeros(shape, dtype=np.float16))
        return torch.zeros(shape, dtype=torch.float16)
    file = folder / f"{name}.npy"
    mapped = np.lib.format.open_memmap(file, "w+", np.float16, shape)
    _reserve(file)
    return torch.from_numpy(mapped)


def _reserve(file: Path) -> None:
    """Let the disk set aside all of `file`: on a full one, writing to mapped memory would end the process.

    Raises:
        OSError: if there is not enough room.
    """
    size = file.stat().st_size
    if hasattr(os, "posix_fallocate"):
        with open(file, "r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, size)
    elif shutil.disk_usage(file.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _seal(file: Path) -> dict[str, Any]:
    """Return the size and SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return {"size": file.stat().st_size, "sha256": digest.hexdigest()}


def _is_kept(folder: Path) -> bool:
    """Say whether a cache is there.

    Raises:
        InputError: if its files are not as they were written; names the first.
    """
    if not folder.is_dir():
        return False
    manifest = folder / _MANIFEST
    known = read_json(manifest) if manifest.is_file() else None
    for file in _FILES:
        path = folder / file
        if not path.is_file() or not isinstance(known, dict) or known.get(file) != _seal(path):
            raise InputError(
                f"'{path}' of the distillation cache is damaged or was never finished: delete the folder '{folder}', "
                "and it is made again."
            )
    return True


def _open(file: Path) -> torch.Tensor:
    # Copy-on-write: torch wants memory that could be written, the file stays as it is.
    return torch.from_numpy(np.load(file, mmap_mode="c"))
