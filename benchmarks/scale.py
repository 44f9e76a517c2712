"""What data of 10^5 to 10^8 interactions cost: seconds and memory of each step from files to a first evaluation.

    python benchmarks/scale.py --interactions=100000,1000000 --formats=text,parquet --folder=DIR

Sets are made in chunks and shaped like real ones: a tenth as many users, item popularity by Zipf's law, sequences of at
least 5 interactions, a third of them repeating what followed the item before elsewhere, tokens that look like a shop's.
Each chain of steps is a process of its own, which is ended when it holds more than ``--memory_gb``. A step's memory is
the peak of its process during it, with what the steps before it hold. Each step is one JSON object in ``--output``, and
the exponent is the slope of log seconds over log interactions.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

_CHUNK_USERS = 100_000
_MOST_ITEMS = 1_000_000
_FEATURES = 32
_WORDS = 20_000
_START, _SPAN = 1_300_000_000, 300_000_000  # seconds
_DIGITS = np.frombuffer(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", dtype=np.uint8)
_STEPS_TIMED, _BATCHES_RANKED = 10, 4
CHAINS = ("leave", "time", "text")  # of steps, each in a process of its own


def make(folder: Path, interactions: int, kind: str, seed: int = 2020) -> None:
    """Write ``folder/NAME/NAME.inter`` and ``.item``, as text or Parquet, and features of the items, unless there."""
    users, items = max(10, interactions // 10), min(_MOST_ITEMS, max(10, interactions // 10))
    name = name_of(interactions, kind)
    target = folder / name
    if (target / "done").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    ending = ".parquet" if kind == "parquet" else ""
    _write(target / f"{name}.inter{ending}", kind, _interactions(users, items, interactions, seed))
    _write(target / f"{name}.item{ending}", kind, _items(items, seed))
    rng = np.random.default_rng(seed)
    np.save(target / "features.npy", rng.standard_normal((items, _FEATURES), dtype=np.float32))
    (target / "features.txt").write_text("\n".join(_tokens(np.arange(items), "B0", 8).to_pylist()))
    (target / "done").touch()


def name_of(interactions: int, kind: str) -> str:
    """Return the dataset's name."""
    return f"scale{interactions}{kind}"


def _interactions(users: int, items: int, interactions: int, seed: int) -> Iterator[pa.Table]:
    """Yield the interactions of chunks of users, each chunk in random order."""
    weight = 1 / (np.arange(items) + 10.0)
    below = np.cumsum(weight / weight.sum())
    for first in range(0, users, _CHUNK_USERS):
        rng = np.random.default_rng([seed, first])
        count = min(_CHUNK_USERS, users - first)
        mean = interactions / users
        lengths = 5 + rng.geometric(1 / max(1.0, mean - 4), count) - 1
        user = np.repeat(np.arange(first, first + count), lengths)
        drawn = np.searchsorted(below, rng.random(len(user))).clip(max=items - 1)
        follows = rng.random(len(user)) < 0.3
        item = np.where(follows, (np.roll(drawn, 1) * 7919 + 13) % items, drawn)
        gaps = rng.exponential(86_400 * 30, len(user)).astype(np.int64)
        passed = np.cumsum(gaps)
        opens = np.cumsum(lengths) - lengths
        time_ = np.repeat(rng.integers(_START, _START + _SPAN, count) - passed[opens], lengths) + passed
        order = rng.permutation(len(user))
        yield pa.table(
            {
                "user_id:token": _tokens(user[order], "A", 13),
                "item_id:token": _tokens(item[order], "B0", 8),
                "timestamp:float": time_[order],
            }
        )


def _items(items: int, seed: int) -> Iterator[pa.Table]:
    words = np.array([f"word{number}" for number in range(_WORDS)])
    rng = np.random.default_rng([seed, 1])
    for first in range(0, items, _CHUNK_USERS):
        count = min(_CHUNK_USERS, items - first)
        title = words[(rng.zipf(1.3, (6, count)) - 1) % _WORDS]
        joined = title[0].astype(object)
        for word in title[1:]:
            joined = joined + " " + word
        tokens = _tokens(np.arange(first, first + count), "B0", 8)
        yield pa.table({"item_id:token": tokens, "title:token_seq": pa.array(joined.tolist())})


def _tokens(numbers: np.ndarray, prefix: str, width: int) -> pa.Array:
    """Return a token of `width` digits and letters for each number, all of them different."""
    mixed = numbers.astype(np.uint64) * np.uint64(2_654_435_761) % np.uint64(36**7 - 1)  # coprime: a permutation
    letters = np.empty((len(numbers), len(prefix) + width), dtype=np.uint8)
    letters[:, : len(prefix)] = np.frombuffer(prefix.encode(), dtype=np.uint8)
    for place in range(letters.shape[1] - 1, len(prefix) - 1, -1):
        letters[:, place] = _DIGITS[mixed % np.uint64(36)]
        mixed //= np.uint64(36)
    offsets = np.arange(len(numbers) + 1, dtype=np.int64) * letters.shape[1]
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(letters.tobytes())]
    return pa.Array.from_buffers(pa.string(), len(numbers), buffers)


def _write(file: Path, kind: str, chunks: Iterator[pa.Table]) -> None:
    if kind == "parquet":
        first = next(chunks)
        with parquet.ParquetWriter(file, first.schema) as writer:
            writer.write_table(first)
            for chunk in chunks:
                writer.write_table(chunk)
        return
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with open(file, "wb") as stream:
        for number, chunk in enumerate(chunks):
            if number == 0:  # pyarrow would quote the names
                stream.write(("\t".join(chunk.column_names) + "\n").encode())
            csv.write_csv(chunk, stream, options)


class _Clock:
    """Prints what each step took, and forgets the peak of memory after it."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        with open("/proc/self/clear_refs", "w") as stream:  # the peak counts anew from what is held
            stream.write("5")
        self.started, self.cpu = time.perf_counter(), time.process_time()

    def lap(self, step: str, rows: int = 0) -> None:
        """End a step, in which so many rows were trained on or ranked, and begin the next."""
        seconds = time.perf_counter() - self.started
        found = {"step": step, "s": round(seconds, 2), "cpu_s": round(time.process_time() - self.cpu, 2)}
        found |= {"peak_mb": _memory("VmHWM"), "held_mb": _memory("VmRSS")}
        if rows:
            found["rows_per_s"] = round(rows / seconds, 1)
        print(json.dumps(found), flush=True)
        self._start()


def _memory(what: str, pid: int | str = "self") -> int:
    """Return MB of VmRSS (held now) or VmHWM (the peak)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 // 10**6 for line in lines if line.startswith(what)), 0)


def measure(folder: Path, name: str, chain: str) -> None:
    """Run a chain's steps in this process and print one JSON object for each."""
    clock = _Clock()
    import torch

    from recbole_sid.config import Config
    from recbole_sid.data import create_dataset, data_preparation
    from recbole_sid.data.loader import training_loader
    from recbole_sid.memory.table import transition_table
    from recbole_sid.quick_start import build_model
    from recbole_sid.semantic_ids.build import build_semantic_ids, semantic_id_recipe

    config = Config("TIGER", name, config_dict=_settings(folder, name, chain))
    logging.disable(logging.INFO)
    clock.lap("import")
    dataset = create_dataset(config)
    clock.lap("read")
    if chain == "time":
        dataset.build()
        clock.lap("split by time")
        return

    def semantic_ids(config: Any, train_dataset: Any) -> Any:
        clock.lap("split, leave last out")
        found, _ = build_semantic_ids(config, train_dataset, semantic_id_recipe(config, train_dataset))
        clock.lap("semantic IDs, random" if chain == "leave" else "semantic IDs, texts and k-means")
        return found

    loaders = data_preparation(config, dataset, semantic_ids)
    if chain == "text":
        return
    train = loaders[0]._dataset
    clock.lap("loaders")
    transition_table(*train.training_sequences(), dataset.item_num, 3, 0.5, 1024)
    clock.lap("memory table")
    model = build_model(config, train)
    clock.lap("model")
    batches = iter(training_loader(config, train))
    batch = next(batches)
    clock.lap("training, first batch")
    optimizer, rows = torch.optim.AdamW(model.parameters(), lr=1e-3), 0
    for _, batch in zip(range(_STEPS_TIMED), batches, strict=False):
        optimizer.zero_grad()
        model(batch.to(model.device)).backward()
        optimizer.step()
        rows += len(batch)
    clock.lap("training, steps", rows)
    del batches, batch
    model.eval()
    evaluated = iter(loaders[1])
    batch = next(evaluated)
    clock.lap("evaluation, first batch")
    with torch.no_grad():
        rows = 0
        for _, batch in zip(range(_BATCHES_RANKED), evaluated, strict=False):
            model.retrieve(batch[0].to(model.device))
            rows += len(batch[0])
    clock.lap("evaluation", rows)


def _settings(folder: Path, name: str, chain: str) -> dict[str, Any]:
    target = folder / name
    if chain == "text":
        of_items: dict[str, Any] = {"features": ["text"], "text_fields": ["title"], "tokenizer": "rq_kmeans"}
    else:
        of_items = {"features": ["file"], "tokenizer": "random"}
        of_items |= {"feature_file": str(target / "features.npy"), "feature_tokens": str(target / "features.txt")}
    return {
        "data_path": str(folder),
        "eval_args": {
            "split": {"TS": [0.8, 0.9]} if chain == "time" else {"LS": "valid_and_test"},
            "order": "TO",
            "group_by": None if chain == "time" else "user",
            "mode": "full",
        },
        "size": "small",
        "codebook_sizes": [256, 256, 256],  # enough for 10^6 items; the small size has 64 codes, for ml-100k
        "use_gpu": False,
        "checkpoint_dir": str(folder / "saved"),
        "show_progress": False,
        **of_items,
    }


def run(folder: Path, name: str, chain: str, memory_gb: float) -> Iterator[dict[str, Any]]:
    """Measure a chain in a process of its own, and yield its rows; the last says if it had to be ended."""
    words = [sys.executable, __file__, f"--folder={folder}", f"--measure={name}", f"--chain={chain}"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ended = False
    while process.poll() is None:
        if _memory("VmRSS", process.pid) > memory_gb * 1000:
            process.kill()
            ended = True
        time.sleep(0.2)
    output, errors = process.communicate()
    yield from (json.loads(line) for line in output.splitlines() if line.startswith("{"))
    if process.returncode:
        last = errors.strip().splitlines()[-1:] or [""]
        yield {"step": "ended", "why": f"over {memory_gb} GB" if ended else last[0][:300]}


def table(rows: list[dict[str, Any]]) -> str:
    """Return Markdown: of each step and format seconds and peak MB by size, and both exponents."""
    sizes = sorted({row["interactions"] for row in rows})
    heads = [f"{size:.0e}: s | CPU s | MB".replace("e+0", "e") for size in sizes]
    lines = [f"| format, step | {' | '.join(heads)} | exponent of s | of MB |"]
    lines.append("| --- |" + " --- |" * (3 * len(sizes) + 2))
    for key in dict.fromkeys((row["format"], row["chain"], row["step"]) for row in rows if "s" in row):
        found = {row["interactions"]: row for row in rows if (row["format"], row["chain"], row["step"]) == key}
        cells = [
            " | ".join(f"{found[size][what]:,}" if size in found else "-" for what in ("s", "cpu_s", "peak_mb"))
            for size in sizes
        ]
        lines.append(
            f"| {key[0]}, {key[2]} | {' | '.join(cells)} | {_exponent(found, 's')} | {_exponent(found, 'peak_mb')} |"
        )
    lines += [f"{row['format']} {row['interactions']:,} {row['chain']}: {row['why']}" for row in rows if "why" in row]
    return "\n".join(lines)


def _exponent(found: dict[int, dict[str, Any]], what: str) -> str:
    pairs = [(size, row[what]) for size, row in sorted(found.items()) if row[what] > 0][-2:]
    if len(pairs) < 2:
        return "-"
    (small, less), (large, more) = pairs
    return f"{np.log(more / less) / np.log(large / small):.2f}"


def main() -> None:
    """Make the sets, measure them, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", default="100000,1000000", help="numbers, with commas between them")
    parser.add_argument("--formats", default="text,parquet")
    parser.add_argument("--chains", default=",".join(CHAINS))
    parser.add_argument("--folder", required=True, help="where sets are made, and kept")
    parser.add_argument("--output", help="a file of JSON lines that rows are added to")
    parser.add_argument("--memory_gb", type=float, default=16)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--chain", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = Path(options.folder).resolve()
    if options.measure:
        measure(folder, options.measure, options.chain)
        return
    rows: list[dict[str, Any]] = []
    for size in (int(float(number)) for number in options.interactions.split(",")):
        for kind in options.formats.split(","):
            make(folder, size, kind)
            for chain in options.chains.split(","):
                for row in run(folder, name_of(size, kind), chain, options.memory_gb):
                    rows.append({"interactions": size, "format": kind, "chain": chain, **row})
                    if options.output:
                        with open(options.output, "a", encoding="utf-8") as stream:
                            stream.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
