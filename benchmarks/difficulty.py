"""Where the difficulty is: each level's valid children, accuracy and cross entropy, of teachers and students.

python benchmarks/difficulty.py NAME=CHECKPOINT... [--output results/difficulty-scientific] [--evaluated test]

The names become the lines of the figure, which is written beside the JSON and the Markdown table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from recbole_sid.evaluation.levels import level_difficulty
from recbole_sid.evaluation.style import PAGE, legend_below, log_axis, new_figure, point, styled, write_figure
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
    "children": "valid codes (mean)",
    "cross_entropy": "cross entropy (nats)",
    "accuracy": "accuracy",
    "in_beam": "in the beam of 50",
}


@styled
def draw(rows: list[dict[str, Any]], path: Path) -> list[Path]:
    """Draw the panels, a line a model; return the files."""
    figure = new_figure(PAGE, 2.3)
    models = list(dict.fromkeys(row["model"] for row in rows))
    all_axes = figure.subplots(1, len(PANELS))
    for axes, (column, title) in zip(all_axes, PANELS.items(), strict=True):
        for number, model in enumerate(models):
            own = [row for row in rows if row["model"] == model]
            levels = [row["level"] for row in own]
            size = 7 - 1.2 * min(number, 4)  # lines that lie upon each other are all seen
            axes.plot(levels, [row[column] for row in own], label=model, markersize=size, **point(number))
        axes.set_xticks(levels)
        axes.set_xlabel("level")
        axes.set_title(title)
        axes.grid()
    counts = [row["children"] for row in rows]
    log_axis(all_axes[0].yaxis, min(counts), max(counts))
    legend_below(figure, all_axes[0], 4)
    return write_figure(figure, path)


def main() -> None:
    """Measure every checkpoint and write ``OUTPUT.json``, ``.md`` and the figure."""
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
    print(f"{table}\n\nWritten: {arguments.output}.json, .md, .png, .pdf, .svg")


if __name__ == "__main__":
    main()
