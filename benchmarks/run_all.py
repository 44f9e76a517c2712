"""Measure everything anew and write benchmarks/RESULTS.md.

python benchmarks/run_all.py [--only decoding trie ...] [--data_path DIR] [--checkpoints FILE ...]

Sections that are not run, or lack their data or checkpoints, keep their text. Measure on an idle machine.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from recbole_sid.util.files import write_text

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
PADDED_DATASETS = ("scientific", "beauty", "games18")
# Key -> title, and commands whose output is the section's text.
SECTIONS: dict[str, tuple[str, list[list[str]]]] = {
    "decoding": (
        "Decoding on one core",
        [
            ["recbole-sid", "bench", "--threads=1", "--batches=[1,32]"],
            [  # transformers would need 13 GB here
                "recbole-sid",
                "bench",
                "--threads=1",
                "--batches=256",
                "--rows=[tiger-constrained,sidmlp-plain,sidmlp,sidmlp-fast,sidmlppp,sidmlppp-item,exact,full,sasrec]",
            ],
        ],
    ),
    "threads": (
        "Decoding on all cores",
        [["recbole-sid", "bench", "--threads=all", "--batches=32", "--histories=natural"]],
    ),
    "large": (
        "Decoding at 10^6 items",
        [
            [
                "recbole-sid",
                "bench",
                "--items=1000000",
                "--rows=[tiger-constrained,sidmlp-plain,sidmlp,sidmlp-fast,sidmlppp-item,exact,sasrec]",
                "--batches=32",
                "--threads=1",
                "--histories=natural",
            ]
        ],
    ),
    "decoders": ("Beam search against the exact top items, on trained models", [["python", "decoders.py"]]),
    "evaluation": ("Evaluation without a matrix of scores", [["python", "evaluation.py"]]),
    "mlp_encoder": ("SID-MLP++: sizes at which its encoders win", [["python", "mlp_encoder.py"]]),
    "encoder": ("The T5 encoder", [["python", "encoder.py"]]),
    "forms": ("What each form for inference gains", [["python", "forms.py"]]),
    "training": ("Training the teacher: real tokens a second", [["python", "training.py"]]),
    "trie": ("The trie", [["python", "trie.py"]]),
    "padding": (
        "Padding: tokens that the encoder computes, relative to the tokens there are",
        [["python", "padding.py", "ml-100k"], *(["python", "padding.py", name] for name in PADDED_DATASETS)],
    ),
}


def output(command: list[str]) -> str:
    """Run a command and return what it is to contribute: the report of a bench, else what it prints."""
    if command[0] == "python":
        words = [sys.executable, str(HERE / command[1]), *command[2:]]
        return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as folder:
        program = shutil.which(command[0]) or str(Path(sys.executable).with_name(command[0]))
        subprocess.run([program, *command[1:], f"--output={folder}"], check=True, stdout=subprocess.DEVNULL)
        report = (Path(folder) / "bench.md").read_text(encoding="utf-8")
    return report.split("\n", 4)[4].strip().replace("\n## ", "\n### ")  # without its own title and command


def section(title: str, commands: list[list[str]]) -> str:
    """Return the section's text: the commands as a reader would type them, and their output."""
    shown = [" ".join(map(_shown, words)) for words in commands]
    parts = [output(words) for words in commands]
    if all(part.startswith("|") for part in parts):  # one table: the same heading over all rows
        parts = ["\n".join([*parts[0].split("\n"), *(row for part in parts[1:] for row in part.split("\n")[2:])])]
    return "\n\n".join([f"## {title}", "\n".join(f"    {line}" for line in shown), *parts])


def _shown(word: str) -> str:
    """Return a word of a command as it is to be read: without the places of files on this machine."""
    if word.endswith(".py"):
        return f"benchmarks/{word}"
    return Path(word).name if Path(word).is_file() else "DATA_PATH" if Path(word).is_dir() else word


def read() -> dict[str, str]:
    """Return the sections of the results file by title, in order."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else ""
    parts = text.split("\n## ")[1:]
    return {part.split("\n", 1)[0]: "## " + part.strip() for part in parts}


def main() -> None:
    """Run what is asked for, writing the file after each section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--data_path", help="folder with the datasets of the padding table")
    parser.add_argument("--checkpoints", nargs="+", default=[], help="trained students for the decoders' table")
    options = parser.parse_args()
    for key in options.only:
        title, commands = SECTIONS[key]
        if key == "decoders":
            commands = [[*words, *options.checkpoints] for words in commands if options.checkpoints]
        if key == "padding":
            commands = [[*words, options.data_path] if words[2] in PADDED_DATASETS else words for words in commands]
            commands = [words for words in commands if None not in words]
        if not commands:
            print(f"{key}: needs --checkpoints; its text stays", file=sys.stderr)
            continue
        print(f"{key} ...", file=sys.stderr, flush=True)
        known = {**read(), title: section(title, commands)}
        titles = [known_title for known_title, _ in SECTIONS.values()]
        ordered = sorted(known, key=lambda name: titles.index(name) if name in titles else len(titles))
        write_text(RESULTS, "\n\n".join(["# Measured", *(known[name] for name in ordered)]) + "\n")


if __name__ == "__main__":
    main()
