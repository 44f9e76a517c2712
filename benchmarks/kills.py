"""Kills a small training at random moments, resumes it, and compares it with one that ran through, to the bit.

    python benchmarks/kills.py --model=SIDMLPPlusPlus --rounds=10

In each round the training is killed (SIGKILL) once to three times, each time up to half a second after a random one of
the checkpoints that it writes, or before the first; then it runs to its end. What a kill met is read from the states
that it left: the model (students train their teacher in the same run, so that it is killed too), the stage and how many
of its epochs were done. Files beyond those of the run that nobody killed are leftovers.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch

_SIZES = {
    "use_gpu": False,
    "show_progress": False,
    "state": "ERROR",
    "codebook_sizes": [8, 4],
    "collaborative_dim": 8,
    "beam_size": 10,
    "MAX_ITEM_LIST_LENGTH": 6,
    "train_batch_size": 32,
    "epochs": 6,
}
_TEACHER = {
    "d_model": 16,
    "d_ff": 32,
    "n_heads": 2,
    "d_kv": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "epochs": 4,
    "train_batch_size": 32,
}
_CAUSAL = {"d_model": 16, "d_ff": 32, "n_heads": 2, "n_layers": 1, "train_batch_size": 16}
_STUDENT = {"teacher_config": _TEACHER, "attention_heads": 2, "attention_dim": 16, "ffn_size": 32, "head_hidden": 16}
_MODELS = {
    "TIGER": {**_TEACHER},
    "CausalSID": _CAUSAL,
    "SIDMLP": _STUDENT,
    "SIDMLPPlusPlus": {**_STUDENT, "encoder_epochs": 3, "distill_cache": "disk"},
}


def write_dataset(folder: Path) -> None:
    """Write ``folder/kills/kills.inter``: 150 users, 40 items, sequences that tend to go up by one."""
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(150):
        item = int(rng.integers(40))
        for moment in range(int(rng.integers(5, 14))):
            lines.append(f"u{user}\ti{item}\t{moment}")
            item = (item + 1) % 40 if rng.random() < 0.7 else int(rng.integers(40))
    target = folder / "kills"
    target.mkdir(parents=True)
    (target / "kills.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")


def train(model: str, data: str, checkpoints: str, result: str) -> None:
    """Train or resume, and write metrics and weights to `result`."""
    from recbole_sid.config import Config
    from recbole_sid.quick_start import run_model
    from recbole_sid.util.files import replacing

    torch.set_num_threads(1)
    settings = {**_SIZES, **_MODELS[model], "data_path": data, "checkpoint_dir": checkpoints, "resume": True}
    run = run_model(Config(model, "kills", config_dict=settings))
    with replacing(result) as temporary:
        torch.save(
            [{name: float(value) for name, value in run.test_result.items()}, run.trainer.model.state_dict()], temporary
        )


def start(model: str, data: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start `train` in a process of its own, in `folder`."""
    folder.mkdir(exist_ok=True)
    arguments = [model, str(data), str(folder / "saved"), str(folder / "result.pt")]
    command = [sys.executable, str(Path(__file__).resolve()), "--train", *arguments]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def outcome(folder: Path) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Return the metrics and weights that `train` wrote in `folder`."""
    metrics, state = torch.load(folder / "result.pt", weights_only=True)
    return metrics, state


def kill_after(process: subprocess.Popen[bytes], folder: Path, n_writes: int, wait_s: float) -> int:
    """Kill `process` `wait_s` seconds after it has written `n_writes` checkpoints in `folder`, if it still runs then.

    Returns:
        how many it wrote.
    """
    seen: set[tuple[str, int]] = set()
    present = {(file.name, file.stat().st_mtime_ns) for file in (folder / "saved").glob("*.pth")}
    while process.poll() is None:
        for file in (folder / "saved").glob("*.pth"):
            with contextlib.suppress(FileNotFoundError):
                seen.add((file.name, file.stat().st_mtime_ns))
        if len(seen - present) >= n_writes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
            process.kill()
        time.sleep(0.01)
    return len(seen - present)


def where(folder: Path) -> str:
    """Return what a training that was killed in `folder` was at, by the state that it left."""
    states = sorted((folder / "saved").glob("*.last.pth"), key=lambda file: file.stat().st_mtime)
    if not states:
        names = {file.name.split("-")[0] for file in (folder / "saved").glob("*.pth")}
        return f"after {' and '.join(sorted(names))}" if names else "before the first state"
    state = torch.load(states[-1], weights_only=True)
    return f"{state['model']}, stage {state['stage'] + 1}, {state['epoch'] + 1} epochs done"


def files(folder: Path) -> set[str]:
    """Return the names of all files in `folder`, logs aside, which are named by their time."""
    names = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return {name for name in names if not name.startswith("log")}


def main() -> None:
    """Run as the module says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=_MODELS, default="SIDMLPPlusPlus")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--train", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(*options.train)
        return
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dataset(folder / "data")
        begun = time.perf_counter()
        process = start(options.model, folder / "data", folder / "whole")
        n_writes = kill_after(process, folder / "whole", sys.maxsize, 0)
        if process.wait():
            sys.exit("The training that nobody kills failed.")
        whole_s = time.perf_counter() - begun
        metrics, state = outcome(folder / "whole")
        kept = files(folder / "whole")
        kills: Counter[str] = Counter()
        leftovers: list[str] = []
        equal = 0
        for number in range(options.rounds):
            place = folder / str(number)
            for _ in range(chance.randint(1, 3)):
                process = start(options.model, folder / "data", place)
                kill_after(process, place, chance.randrange(n_writes * 2 // 3), chance.uniform(0.0, 0.5))
                if process.wait() < 0:
                    kills[where(place)] += 1
            if start(options.model, folder / "data", place).wait():
                print(f"round {number}: the resume failed")
                continue
            leftovers += sorted(files(place) - kept)
            found, weights = outcome(place)
            same = found == metrics and weights.keys() == state.keys()
            same = same and all(torch.equal(weights[name], value) for name, value in state.items())
            equal += same
            if not same:
                print(f"round {number} differs: {found} for {metrics}")
        print(f"{options.model}: a run takes {whole_s:.0f} s; {sum(kills.values())} kills; ", end="")
        print(f"{equal} of {options.rounds} rounds equal; {len(leftovers)} leftovers {leftovers or ''}")
        for place_of_kill, number in sorted(kills.items()):
            print(f"  {number} x {place_of_kill}")


if __name__ == "__main__":
    main()
