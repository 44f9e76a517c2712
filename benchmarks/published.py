"""Pictures of results pages, drawn from the tables that stand in these: their runs need not be there any more.

python benchmarks/published.py        (in the repository; writes .png, .pdf and .svg beside the pages)

What a table does not say is not drawn: in results/memory.png the intervals of the left panel, in
results/memorization_generalization.png to which category the other predicted items belong.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from memory_figure import GENERALIZATION, MEMORIZATION, Values, draw

from recbole_sid.generalization.analysis import Analysis
from recbole_sid.generalization.analysis_figure import figure
from recbole_sid.generalization.per_instance import METRICS

RESULTS = Path(__file__).resolve().parent.parent / "results"
# Row of the table in results/memory.md -> name in the picture.
_MEMORY_ROWS = {
    "SASRec, searched": "SASRec",
    "TransitionMemory: transitions alone": "TransitionMemory",
    "TransitionMemory with texts": "TransitionMemory, texts",
    "SIDMLPHybrid, no memory": "SIDMLPHybrid",
    "SIDMLPHybrid-memory, with texts": "SIDMLPHybrid + memory",
}
_POPULARITY = ("1-3", "4-7", "8-19", "20+")
_ITEM = "SIDMLPPlusPlus, `encoder: item`"


def main() -> None:
    """Draw them."""
    for file in (*memory(RESULTS), *memorization_generalization(RESULTS)):
        print(file)


def memory(folder: Path) -> list[Path]:
    """Draw ``memory.png`` of scientific in memory.md; users per second are in the sentence below its table."""
    text = (folder / "memory.md").read_text(encoding="utf-8")
    rows = {row["NDCG@10"]: row for row in tables(text)[0]}
    speeds = _speeds(text)
    drawn = []
    for begin, label in _MEMORY_ROWS.items():
        (row,) = (row for name, row in rows.items() if name.startswith(begin))
        by_category = {
            GENERALIZATION: (number(row["general"]), math.nan),
            MEMORIZATION: (number(row["memorised"]), math.nan),
        }
        by_popularity = {name: number(row[name]) for name in _POPULARITY}
        drawn.append(Values(label, number(row["all"]), by_category, by_popularity, speeds[label]))
    return draw(drawn, folder / "memory")


def _speeds(text: str) -> dict[str, float]:
    (said,) = re.findall(r"rounds\): (SASRec [^.]*)\.", text.replace("\n", " "))
    found = [number(part.split()[-1]) for part in re.split(r", (?=[A-Za-z])", said)]
    return dict(zip(_MEMORY_ROWS.values(), found, strict=True))


def memorization_generalization(folder: Path) -> list[Path]:
    """Draw the picture of memorization_generalization.md from its first two tables."""
    by_category, by_confidence = tables((folder / "memorization_generalization.md").read_text(encoding="utf-8"))[:2]
    *categories, predicted = by_category
    models = [name for name in predicted if name not in ("", "Instances")]
    shares = [{"category": row[""], "share": _share(row["Instances"])} for row in categories]
    metric = METRICS[0]
    rows: list[dict[str, Any]] = []
    for row in categories:
        for model in models:
            mean, half = map(number, row[model].split("±"))
            rows.append({"model": model, "category": row[""], metric: mean, f"{metric}_low": mean - half})
    indicator = [
        {
            "bin": row["Confidence"],
            "memorization": number(row["Memorization"]) / 100,
            **{model: number(row[model.removeprefix("SIDMLPPlusPlus, ")]) for model in models},
        }
        for row in by_confidence
    ]
    of_predicted = [{"model": m, "category": "memorization", "share": _share(predicted[m])} for m in models]
    named = Analysis(shares, rows, of_predicted, [], [], [], indicator, "SASRec (seed 2020)")
    return figure(_with_names(named, {_ITEM: "SIDMLPPlusPlus-item"}), folder / "memorization_generalization.png")


def _with_names(analysis: Analysis, names: dict[str, str]) -> Analysis:
    def renamed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [
            {names.get(key, key): names.get(value, value) if key == "model" else value for key, value in row.items()}
            for row in rows
        ]

    return analysis._replace(
        categories=renamed(analysis.categories),
        predicted=renamed(analysis.predicted),
        indicator=renamed(analysis.indicator),
    )


def tables(text: str) -> list[list[dict[str, str]]]:
    """Return the tables of a Markdown text: rows of header -> cell."""
    found: list[list[dict[str, str]]] = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.M):
        header, _, *rows = (
            [cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()
        )
        found.append([dict(zip(header, row, strict=True)) for row in rows])
    return found


def number(cell: str) -> float:
    """Return the number at the beginning of a cell; bold, thousands and per cent aside."""
    return float(re.match(r"[-+]?[\d.]+", cell.replace("*", "").replace(",", "").strip())[0])  # type: ignore[index]


def _share(cell: str) -> float:
    """Return the per cent of a cell as a share."""
    return float(re.findall(r"([\d.]+)%", cell)[0]) / 100


if __name__ == "__main__":
    main()
