"""What one GPU does: the suite's tests there, decoding, rates of training, and the teacher of beauty with its students.

    python benchmarks/gpu.py --data_path=FOLDER --out=FOLDER                   # all parts; again: what is not there yet
    python benchmarks/gpu.py --parts=decoding,training --budget=120            # two of them, two minutes each
    python benchmarks/gpu.py --device=cpu --quick                              # the same ways, tiny, without a GPU

Needs a checkout, torch, RecBole and what the package imports; nothing is fetched. Parts, each of `--budget` seconds:

    tests      pytest -m gpu: losses, gradients, rankings, graphs, caches, mixed precision equal the CPU's; no waiting;
               one file after the other, and what passed is not run again
    decoding   the paper's set-up at batch 32, 256, 1024: milliseconds, users/s and peak memory of teacher and students
    training   tokens/s of TIGER and CausalSID at the paper's size in fp32 and bf16, and minutes of an epoch
    beauty     TIGER at the paper's size, then SID-MLP and SID-MLP++ over items: as far as the time goes, then further

Data sets are read from `--data_path` (`scientific`, `beauty`, `games18`, with ready-made semantic IDs beside them);
where one is not there, a synthetic set of its shape takes its place, and the page says so. Results are in
``OUT/gpu.json``, which every measurement is added to as soon as it is there, and on the page ``OUT/gpu.md``; a
folder holds those of one device, one size and one set of packages.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch

from recbole_sid.bench.document import document, table
from recbole_sid.bench.options import BenchOptions
from recbole_sid.bench.run import Measured, run_bench
from recbole_sid.bench.synthetic_catalogue import synthetic_semantic_ids, synthetic_sequences
from recbole_sid.config import Config
from recbole_sid.data import create_dataset, data_preparation
from recbole_sid.errors import InputError
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.quick_start import make_trainer, run_recbole_sid
from recbole_sid.trainer.sid_trainer import SIDTrainer
from recbole_sid.util.files import replacing
from recbole_sid.util.hardware import peak_memory
from recbole_sid.util.machine import processor, versions

ROOT = Path(__file__).parents[1]
# Items and interactions of the data sets, for sets of their shape; and which ready-made semantic IDs are used.
SHAPES = {"scientific": (4_344, 58_492), "beauty": (12_101, 198_502), "games18": (16_859, 452_989)}
CODES = {"scientific": "rqvae-native", "beauty": "rqvae-native", "games18": "wncfht"}
ROWS = (
    "transformers", "tiger-constrained", "sidmlp-plain", "sidmlp", "sidmlp-fast", "sidmlp-bf16",
    "sidmlppp", "sidmlppp-item", "sidmlppp-item-memory", "hybrid", "sasrec",
)  # fmt: skip
QUICK_ROWS = ("tiger-constrained", "sidmlp-fast", "sidmlppp-item-memory")
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"enable_amp": True},
    "fp32 captured": {"capture_training": True},
    "bf16 captured": {"enable_amp": True, "capture_training": True},
    "bf16 compiled": {"enable_amp": True, "compile_model": True},
}
# A tiny teacher in place of the paper's.
TINY = {"d_model": 16, "d_ff": 32, "n_heads": 2, "epochs": 2, "warmup_steps": 5, "train_batch_size": 32}
TINY_T5 = {**TINY, "d_kv": 8, "encoder_layers": 1, "decoder_layers": 1}
TINY_STUDENT = {"attention_heads": 2, "attention_dim": 16, "ffn_size": 32, "head_hidden": 16, "epochs": 1}
# What pytest -v says of a test, and why one failed; and how it ends when it ran them all (5: there were none).
_OUTCOME = re.compile(r"(tests/.+?::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b")
_REASON = re.compile(r"(?:FAILED|ERROR) (tests/.+?::.+?) - (.*)")
_ENDS = (0, 1, 5)
WARM_UP, COUNTED = 8, 40  # batches: of a first epoch that does not count, and by which the rest is sized


class Options(NamedTuple):
    """What the command line says."""

    parts: tuple[str, ...]
    device: torch.device
    data_path: Path | None
    out: Path
    budget: float
    quick: bool

    @property
    def settings(self) -> dict[str, Any]:
        """Of every run."""
        return {
            "use_gpu": self.device.type == "cuda",
            "show_progress": False,
            "state": "WARNING",
            "eval_batch_size": 1024,
            "checkpoint_dir": str(self.out / "saved"),
            "MAX_ITEM_LIST_LENGTH": 20,
        }


class Results:
    """What was measured so far, by part and name, kept in a file from one run to the next.

    Args:
        folder: of the file.
        facts: what all measurements on a page have in common.

    Raises:
        InputError: if the folder holds results of something else.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.file = folder, folder / "gpu.json"
        self.content: dict[str, dict[str, Any]] = {"facts": facts}
        if self.file.is_file():
            self.content = json.loads(self.file.read_text(encoding="utf-8"))
        known = self.content.get("facts", {})
        if name := next((name for name in facts if known.get(name) != facts[name]), None):
            raise InputError(
                f"'{self.file}' holds results of {name}={known.get(name)}, and these would be of {name}={facts[name]}: "
                "name another folder in --out."
            )

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key[1] in self.content.get(key[0], {})

    def add(self, part: str, name: str, value: Any) -> None:
        """Keep a measurement, and write file and page."""
        self.content.setdefault(part, {})[name] = value
        self.folder.mkdir(parents=True, exist_ok=True)
        for file, text in (
            (self.file, json.dumps(self.content, indent=1)),
            (self.folder / "gpu.md", page(self.content)),
        ):
            with replacing(file) as temporary:
                temporary.write_text(text, encoding="utf-8")


class Clock:
    """The seconds of a part."""

    def __init__(self, seconds: float) -> None:
        self.end = perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds, below 0 when there are none."""
        return self.end - perf_counter()


def say(*words: object) -> None:
    """Print, at once."""
    print(*words, flush=True)


# Tests


def tests(options: Options, results: Results, clock: Clock) -> None:
    """Run the tests marked `gpu` that have not passed yet, file by file; on a CPU collect them."""
    known = results.content.get("tests", {})
    files = ["tests/test_gpu.py"] if options.quick else test_files()
    left = sorted((file for file in files if not _is_done(known.get(file))), key=known.__contains__)  # failed ones last
    for number, file in enumerate(left):
        if clock.left <= 0:
            say(f"tests: {len(left) - number} of {len(files)} files are left for the next time")
            return
        found = run_tests(file, known.get(file, {}).get("passed", []), clock.left, options.device.type == "cpu")
        say(f"tests, {file}:", _counts(found))
        results.add("tests", file, found)


def test_files() -> list[str]:
    """Return the files with tests that are marked `gpu`, themselves or by their fixture."""
    texts = {file: file.read_text(encoding="utf-8") for file in sorted((ROOT / "tests").glob("test_*.py"))}
    marks = ("mark." + "gpu", "from other_device")
    return [file.relative_to(ROOT).as_posix() for file, text in texts.items() if any(mark in text for mark in marks)]


def _is_done(found: dict[str, Any] | None) -> bool:
    return found is not None and found["finished"] and not found["failed"] and not found["skipped"]


def _counts(found: dict[str, Any]) -> dict[str, int]:
    return {name: len(found[name]) for name in ("collected", "passed", "failed", "skipped")}


def run_tests(file: str, passed: list[str], seconds: float, only_collect: bool) -> dict[str, Any]:
    """Return the names of tests by what came of them; those that ran before the time was up are kept too.

    Args:
        file: of the tests.
        passed: names of tests that are not run again.
        seconds: after which it is cut.
        only_collect: names of tests are all that is wanted.
    """
    command = [sys.executable, "-m", "pytest", "-o", "addopts=", "-m", "gpu", "-p", "no:cacheprovider", "-rfE", file]
    command += ["--collect-only", "-q"] if only_collect else ["-v", *(f"--deselect={name}" for name in passed)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "400"}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        try:
            code = subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=seconds,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        output.seek(0)
        lines = output.read().splitlines()
    outcomes = dict(found.groups() for line in lines if (found := _OUTCOME.match(line)))  # an error at the end is last
    reasons = dict(found.groups() for line in lines if (found := _REASON.match(line)))
    by = {word: [name for name, outcome in outcomes.items() if outcome == word] for word in ("PASSED", "SKIPPED")}
    failed = {name: reasons.get(name, "")[:300] for name, word in outcomes.items() if word in ("FAILED", "ERROR")}
    if code not in (-1, *_ENDS) and not failed:
        failed = {file: f"pytest ended with {code}: {lines[-1][:300] if lines else ''}"}
    return {
        "collected": [line for line in lines if only_collect and line.startswith(f"{file}::")],
        "passed": [*passed, *by["PASSED"]],
        "failed": failed,
        "skipped": by["SKIPPED"],
        "finished": code in _ENDS,
    }


# Decoding


def decoding(options: Options, results: Results, clock: Clock) -> None:
    """Measure rows of `recbole-sid bench` at each size of batches."""
    sizes = (4,) if options.quick else (32, 256, 1024)
    for number, batch in enumerate(sizes):
        name = f"batch {batch}"
        if ("decoding", name) in results or clock.left <= 0:
            continue
        bench = BenchOptions(
            batches=(batch,),
            threads=(torch.get_num_threads(),),
            histories=("natural",),
            items=300 if options.quick else 25_000,
            rows=QUICK_ROWS if options.quick else ROWS,
            beam_size=5 if options.quick else 50,
            rounds=1 if options.quick else 40,
            seconds=1 if options.quick else clock.left / (2 * (len(sizes) - number)),
            device=options.device,
            seed=2020,
            checkpoint=None,
        )
        found = run_bench(bench)
        say(f"decoding, {name}:\n{table(found.rows, ('name', 'ms', 'users_per_s', 'peak_mb'))}")
        results.add("decoding", name, {"rows": found.rows, "skipped": found.skipped, "facts": found.facts})


# Training


class Data(NamedTuple):
    """A data set: its name for RecBole, settings that find it, and whether it is the real one."""

    name: str
    settings: dict[str, Any]
    is_real: bool


def data_set(options: Options, name: str) -> Data:
    """Return the data set of that name, or a synthetic one of its shape, made once."""
    if options.data_path and (options.data_path / name / f"{name}.inter").is_file() and not options.quick:
        codes = options.data_path / name / f"{name}.sid.{CODES[name]}.json"
        return Data(name, {"data_path": str(options.data_path), "semantic_ids_path": str(codes)}, True)
    n_items, n_interactions = (60, 400) if options.quick else SHAPES[name]
    own = f"like_{name}"
    folder = options.out / "data" / own
    codes = folder / f"{own}.sid.json"
    if not codes.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        items, offsets = synthetic_sequences(n_interactions, n_items, seed=2020)
        users = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        lines = [f"{user}\t{item}\t{time}" for time, (user, item) in enumerate(zip(users, items, strict=True))]
        head = "user_id:token\titem_id:token\ttimestamp:float"
        (folder / f"{own}.inter").write_text("\n".join([head, *lines]) + "\n", encoding="utf-8")
        rows = synthetic_semantic_ids(n_items, seed=2020).codes.tolist()
        codes.write_text(json.dumps({str(item + 1): row for item, row in enumerate(rows)}), encoding="utf-8")
    columns = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}
    found = {"data_path": str(folder.parent), "semantic_ids_path": str(codes), **columns}
    return Data(own, found, False)


class FirstBatches:
    """The first batches of a training loader, which counts the tokens in them.

    Args:
        loader: of our models.
        n_batches: at most.
        tokens_per_item: L.
    """

    def __init__(self, loader: Any, n_batches: int, tokens_per_item: int) -> None:
        self.loader, self.n_batches, self.tokens_per_item = loader, min(n_batches, len(loader)), tokens_per_item
        self.tokens = 0

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[Any]:
        field = self.loader._dataset.item_list_length_field
        for batch in islice(self.loader, self.n_batches):
            self.tokens += int((2 + self.tokens_per_item * batch[field]).sum())
            yield batch


def training(options: Options, results: Results, clock: Clock) -> None:
    """Measure steps of training, from the loader to the optimizer."""
    names = ("beauty",) if options.quick else ("beauty", "scientific", "games18")
    precisions = ("fp32",) if options.quick else tuple(PRECISIONS)
    plan = [
        (name, model, precision)
        for name in names
        for model in ("TIGER", "CausalSID")
        for precision in precisions
        if "compiled" not in precision or name == names[0]
    ]
    plan.sort(key=lambda row: "compiled" in row[2])  # last: compiling takes longest
    left = [row for row in plan if ("training", " ".join(row)) not in results]
    for number, row in enumerate(left):
        if clock.left <= 0:
            say(f"training: {len(left) - number} of {len(plan)} are left for the next time")
            return
        found = training_rate(options, *row, seconds=clock.left / (2 * (len(left) - number)))
        say("training,", " ".join(row), found)
        results.add("training", " ".join(row), found)


def training_rate(options: Options, name: str, model: str, precision: str, seconds: float) -> dict[str, Any]:
    """Return tokens/s, and what else a row of the table says."""
    data = data_set(options, name)
    tiny = {"TIGER": TINY_T5, "CausalSID": {**TINY, "n_layers": 1}}[model] if options.quick else {}
    config = Config(
        model, data.name, config_dict={**options.settings, **data.settings, **tiny, **PRECISIONS[precision]}
    )
    train = data_preparation(config, create_dataset(config))[0]
    trainer = make_trainer(config, train)
    trainer.start_stage(trainer.stages()[0], train)
    n_levels = trainer.model.vocabulary.n_levels
    if options.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = perf_counter()
    trainer._train_epoch(FirstBatches(train, WARM_UP, n_levels), 0)
    warm_up_s = perf_counter() - started

    def timed(n_batches: int) -> tuple[int, int, float]:
        batches = FirstBatches(train, n_batches, n_levels)
        started = perf_counter()
        trainer._train_epoch(batches, 0)  # its loss is read at the end, when all is done
        return len(batches), batches.tokens, perf_counter() - started

    n, tokens, spent = timed(2 if options.quick else COUNTED)
    if not options.quick and n < len(train):
        n, tokens, spent = timed(max(COUNTED, int(seconds * n / spent)))
    return {
        "data": data.name,
        "real data": data.is_real,
        "tokens/s": tokens / spent,
        "ms a step": 1e3 * spent / n,
        "epoch minutes": len(train) * spent / n / 60,
        "warm-up s": warm_up_s,
        "peak MB": peak_memory(options.device),
    }


# The teacher of beauty and its students


class TimeIsUp(Exception):
    """The training is interrupted, to go on the next time."""


def beauty(options: Options, results: Results, clock: Clock) -> None:
    """Train TIGER and its students, from where the last run stopped."""
    data = data_set(options, "beauty")
    common = {**options.settings, **data.settings, "resume": True, "eval_step": 1 if options.quick else 5}
    teacher = TINY_T5 if options.quick else {}
    students = TINY_STUDENT if options.quick else {}
    runs: dict[str, tuple[str, dict[str, Any]]] = {
        "TIGER": ("TIGER", teacher),
        "SID-MLP": ("SIDMLP", {"distill_cache": "memory", **students}),
        "SID-MLP++ over items": ("SIDMLPPlusPlus", {"encoder": "item", "distill_cache": "memory", **students}),
    }
    for name, (model, changes) in runs.items():
        known = results.content.get("beauty", {})
        if known.get(name, {}).get("test"):
            continue
        settings = {**common, **changes}
        if model != "TIGER":
            if clock.left <= 0:
                return
            settings["teacher_path"] = known["TIGER"]["file"]
        try:
            result = with_time(clock, lambda m=model, s=settings: run_recbole_sid(m, data.name, config_dict=s))
        except TimeIsUp as state:
            say(f"beauty, {name}: {state}; it goes on the next time")
            results.add("beauty", name, {"data": data.name, "real data": data.is_real, "state": str(state)})
            return
        found = {"data": data.name, "real data": data.is_real, "state": "finished", "file": str(result["model_file"])}
        found |= {key: dict(result[f"{key}_result"]) for key in ("test",)}
        found |= {"validation": dict(result["best_valid_result"] or {}), "training s": result["train_s"]}
        say(f"beauty, {name}:", found)
        results.add("beauty", name, found)


def with_time(clock: Clock, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what `run` does; raise TimeIsUp when the state of the epoch that took the rest is written."""
    save = SIDTrainer._save_last

    def saved(trainer: Any, stage: int, epoch: int, stopped: bool, train_data: Any) -> None:
        save(trainer, stage, epoch, stopped, train_data)
        say(f"  epoch {epoch + 1} of {trainer.stage.epochs}, {trainer.train_s:.0f} s")
        if clock.left <= 0 and epoch >= 0 and not stopped and epoch + 1 < trainer.stage.epochs:
            raise TimeIsUp(f"{epoch + 1} of {trainer.stage.epochs} epochs in {trainer.train_s:.0f} s")

    SIDTrainer._save_last = saved  # type: ignore[method-assign]
    try:
        return run()
    finally:
        SIDTrainer._save_last = save  # type: ignore[method-assign]


# The page


def page(content: dict[str, dict[str, Any]]) -> str:
    """Return all results as Markdown."""
    facts = content["facts"]
    title = "# One GPU" if facts["device"] == "cuda" and not facts["quick"] else "# Without a GPU, or tiny: no figures"
    lines = [title, "", f"{facts['processor']}; {facts['versions']}. `benchmarks/gpu.py`."]
    if "tests" in content:
        rows = [_tests_row(*row) for row in content["tests"].items()]
        lines += ["", "## Tests", "", markdown_table(rows, left=["file", "state"]), ""]
        lines += [f"- {name}: {text}" for found in content["tests"].values() for name, text in found["failed"].items()]
    for found in content.get("decoding", {}).values():
        whole = document(
            Measured(found["rows"], found["skipped"], found["facts"]), "benchmarks/gpu.py --parts=decoding"
        )
        lines += ["", whole.replace("\n## ", "\n### ").replace("# Benchmark of decoding", "## Decoding", 1).strip()]
    if "training" in content:
        lines += [
            "",
            "## Training",
            "",
            markdown_table([_training_row(*row) for row in content["training"].items()], left=["run"]),
        ]
    if "beauty" in content:
        lines += ["", "## TIGER and its students", ""]
        lines += [markdown_table([_beauty_row(*row) for row in content["beauty"].items()], left=["model", "state"])]
    return "\n".join(lines) + "\n"


def _tests_row(file: str, found: dict[str, Any]) -> dict[str, str]:
    numbers = {name: str(number) for name, number in _counts(found).items()}
    return {"file": file, **numbers, "state": "all ran" if found["finished"] else "cut"}


def _training_row(name: str, found: dict[str, Any]) -> dict[str, str]:
    return {
        "run": name if found["real data"] else f"{name} (synthetic, of its shape)",
        "tokens/s": f"{found['tokens/s']:,.0f}",
        "ms a step": f"{found['ms a step']:.1f}",
        "minutes an epoch": f"{found['epoch minutes']:.2f}",
        "peak MB": f"{found['peak MB'] or 0:,.0f}",
    }


def _beauty_row(name: str, found: dict[str, Any]) -> dict[str, str]:
    metrics = "  ".join(f"{metric} {value:.4f}" for metric, value in found.get("test", {}).items())
    state = found["state"] if found["real data"] else f"{found['state']} (synthetic data)"
    return {"model": name, "state": state, "training s": f"{found.get('training s', 0):.0f}", "test": metrics}


PARTS: dict[str, Callable[[Options, Results, Clock], None]] = {
    "tests": tests, "decoding": decoding, "training": training, "beauty": beauty,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--data_path", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, default=Path("gpu_results"), help="folder of results, and of what goes on")
    parser.add_argument("--budget", type=float, default=150, help="seconds for each part")
    parser.add_argument("--quick", action="store_true", help="tiny: whether everything runs")
    given = parser.parse_args(arguments)
    chosen = tuple(given.parts.split(","))
    unknown = [name for name in chosen if name not in PARTS]
    if unknown:
        parser.error(f"--parts knows no {', '.join(unknown)}: choose of {', '.join(PARTS)}")
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(
            "--device=cuda needs a GPU that this torch can use: none is found; --device=cpu --quick goes without"
        )
    options = Options(chosen, device, given.data_path, given.out.resolve(), given.budget, given.quick)
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    facts = {"device": device.type, "quick": options.quick, "processor": processor(device), "versions": found}
    try:
        results = Results(options.out, facts)
    except InputError as error:
        parser.error(str(error))
    for name in chosen:
        started = perf_counter()
        say(f"== {name}")
        PARTS[name](options, results, Clock(options.budget))
        say(f"== {name}: {perf_counter() - started:.0f} s")
    say(f"Results in {results.file} and {options.out / 'gpu.md'}")


if __name__ == "__main__":
    main()
