"""Where the difficulty is: each level's valid children, accuracy and cross entropy, of teachers and students.

python benchmarks/difficulty.py NAME=CHECKPOINT... [--output results/difficulty-scientific] [--evaluated test]

The names become the lines of the figure, which is written beside the JSON and the Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recbole_sid.evaluation.figures import write_png
from recbole_sid.evaluation.levels import level_difficulty
from recbole_sid.evaluation.tables import markdown_table
from recbole_sid.quick_start import load_data_and_model
from recbole_sid.util.files import write_json, write_text

INTRODUCTION = """\
# Difficulty by level

Children are the valid codes after the true prefix (mean), only_child is how often there is one. Accuracy and cross
entropy (nats) are of the true code among these, with `_all` among all codes of the level, teacher-forced; in_beam is
how often the true prefix is in the beam of 50. Written by `python benchmarks/difficulty.py`; commands and findings
stand on the dataset's page.
"""
PANELS = {
    "children": "valid codes after the true prefix (mean)",
    "cross_entropy": "cross entropy among valid codes (nats)",
    "accuracy": "accuracy among valid codes",
    "in_beam": "true prefix in the beam of 50",
}


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the panels, a line a model, and write a PNG."""
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    for axes, (column, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for number, model in enumerate(dict.fromkeys(row["model"] for row in rows)):
            own = [row for row in rows if row["model"] == model]
            levels = [row["level"] for row in own]
            axes.plot(levels, [row[column] for row in own], marker="osD^vP*X"[number % 8], label=model, alpha=0.8)
        axes.set_xticks(levels)
        axes.set_xlabel("level")
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
        if column == "children":
            axes.set_yscale("log")
            axes.legend(fontsize=7)
    write_png(figure, path)


def main() -> None:
    """Measure every checkpoint and write ``OUTPUT.json``, ``.md`` and ``.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", metavar="NAME=CHECKPOINT")
    parser.add_argument("--output", default="saved/difficulty")
    parser.add_argument("--evaluated", choices=("valid", "test"), default="test")
    arguments = parser.parse_args()
    rows = []
    for word in arguments.checkpoints:
        name, _, file = word.partition("=")
        _, model, _, _, valid, test = load_data_and_model(file)
        data = test if arguments.evaluated == "test" else valid
        rows += [{"model": name, **row} for row in level_difficulty(model, data, show_progress=True)]
    table = markdown_table(rows)
    write_json(f"{arguments.output}.json", rows)
    write_text(f"{arguments.output}.md", f"{INTRODUCTION}\n{table}\n")
    draw(rows, Path(f"{arguments.output}.png"))
    print(f"{table}\n\nWritten: {arguments.output}.json, .md, .png")


if __name__ == "__main__":
    main()
