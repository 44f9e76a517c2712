"""Writes the sheets of results pages, results/NAME.yaml, from the tables in these and the plans that they are of.

python benchmarks/page_sheets.py --data=DIR        (in the repository; DIR holds scientific/ and beauty/)

`recbole-sid reproduce results/NAME.yaml --data_path=DIR [--feature_file=...]` runs them. The runs behind the pages are
of older versions and not there any more: a sheet has the models and metrics of its page, the plan as it is now, the
hashes of the data, and as tolerance the spread over seeds that the page tells.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from published import number, tables

from recbole_sid.comparison.job import make_jobs
from recbole_sid.comparison.plan import Entry, Plan, read_plan
from recbole_sid.comparison.sheet import FORMAT, TOLERANCE, plan_content, write_content
from recbole_sid.config import Config
from recbole_sid.identity import atomic_hashes

ROOT = Path(__file__).resolve().parent.parent
_ALL = {f"{name}@{k}": f"{name.lower()}@{k}" for name in ("Recall", "NDCG") for k in (5, 10)}
_TEN = {"all": "ndcg@10", "Recall@10": "recall@10"}
_BY_TIME = {"NDCG@10 by time": "ndcg@10", "Recall@10 by time": "recall@10"}
_EMBEDDINGS = "emb-minilm.npy"


class Page(NamedTuple):
    """Where the figures of a sheet stand.

    Attributes:
        page, plan: files of results/, and from the root.
        version: of the package, by the page or else by the history of its table.
        rows: row of the page's table -> row of the comparison.
        columns: of the table -> metric.
        spread: the largest deviation over seeds that the page tells, the tolerance beside 5%.
        seeds: of the table.
        texts: the plan reads embeddings of texts.
        baseline: of the tests.
    """

    page: str
    plan: str
    version: str
    rows: Mapping[str, str]
    columns: Mapping[str, str]
    spread: float
    seeds: tuple[int, ...]
    texts: bool = True
    baseline: str | None = None


_HYBRIDS = {
    "TransitionMemory: transitions alone": "TransitionMemory",
    "SIDMLPHybrid, no memory": "SIDMLPHybrid",
}
PAGES = {
    "scientific": Page(
        "scientific.md",
        "benchmarks/plans/scientific.yaml",
        "0.1.0",
        {
            "SASRec, full cross entropy, default sizes": "SASRec-defaults",
            "TIGER, all code combinations": "TIGER",
            "TIGER, valid semantic IDs": "TIGER-constrained",
            "TIGER, exact top 50": "TIGER-exact",
            "SIDMLP, searched (below)": "SIDMLP",
            "SIDMLP, defaults": "SIDMLP-defaults",
            "SIDMLPPlusPlus, `encoder: item`": "SIDMLPPlusPlus-item",
        },
        _ALL,
        0.002,
        (2020, 2021, 2022),
        baseline="SASRec-defaults",
    ),
    "beauty": Page(
        "beauty.md",
        "benchmarks/plans/beauty.yaml",
        "0.1.0",
        {
            "TIGER, all code combinations, 18 epochs": "TIGER",
            "TIGER, valid semantic IDs": "TIGER-constrained",
            "SIDMLP, 12 epochs": "SIDMLP",
            "SIDMLPPlusPlus, `encoder: item`, 12 epochs": "SIDMLPPlusPlus-item",
            "SIDMLPPlusPlus, `encoder: token`, positions from the end, weighted mean, 8 + 12 epochs": (
                "SIDMLPPlusPlus-token"
            ),
        },
        _ALL,
        0.0016,
        (2020, 2021),
    ),
    "memory-scientific": Page(
        "memory.md",
        "benchmarks/plans/memory-scientific.yaml",
        "0.3.0",
        {
            "Pop": "Pop",
            "EASE (below)": "EASE",
            **_HYBRIDS,
            "TransitionMemory with texts (`memory_text_weight: ~`, 3 chosen)": "TransitionMemory-text",
            "SIDMLPHybrid-memory, transitions alone": "SIDMLPHybrid-memory-notext",
            "SIDMLPHybrid-memory, with texts": "SIDMLPHybrid-memory",
            "K (item head alone: a SASRec with code features)": "K",
            "K, transitions alone": "K-memory-notext",
            "K, with texts": "K-memory",
        },
        _TEN,
        0.0016,
        (2020, 2021, 2022),
    ),
    "memory-beauty": Page(
        "memory.md",
        "benchmarks/plans/beauty.yaml",
        "0.4.0",
        {
            **_HYBRIDS,
            "TransitionMemory with likeness (3 chosen)": "TransitionMemory-text",
            "SIDMLPHybrid-memory, with likeness": "SIDMLPHybrid-memory",
        },
        _TEN,
        0.0012,
        (2020, 2021, 2022),
    ),
    "memory-ablations": Page(
        "memory.md",
        "benchmarks/plans/ablations-scientific.yaml",
        "0.5.0",
        {
            "default": "default",
            "no item head": "no-item-head",
            "item head's loss at half its weight": "item-loss-half",
            "code embeddings start at random": "codes-random",
            "code embeddings frozen where the features put them": "codes-frozen",
            "random semantic IDs (`tokenizer: random`; codes still start from features)": "sids-random",
            "semantic IDs from interactions, and so the memory's likeness too": "sids-interactions",
            "semantic IDs, and likeness, from both": "sids-both",
            "a fifth of the history's items dropped": "history-dropout",
        },
        {"test NDCG@10, memory": "ndcg@10", "Recall@10": "recall@10"},
        0.002,
        (2020, 2021),
        baseline="default",
    ),
    "memorization_generalization": Page(
        "memorization_generalization.md",
        "benchmarks/plans/ensembles-scientific.yaml",
        "0.1.0",
        {
            "SASRec alone": "SASRec",
            "with TIGER, fixed": "Fixed-TIGER",
            "with TIGER, adaptive": "Adaptive-TIGER",
            "with SIDMLP, fixed": "Fixed-SIDMLP",
            "with SIDMLP, adaptive": "Adaptive-SIDMLP",
            "with SIDMLP, adaptive, `scores`": "Adaptive-SIDMLP-scores",
            "with `encoder: item`, fixed": "Fixed-item",
            "with `encoder: item`, adaptive": "Adaptive-item",
        },
        {"Recall@10": "recall@10", "NDCG@10": "ndcg@10"},
        0.0021,
        (2020, 2021, 2022),
        baseline="SASRec",
    ),
    "ml-100k": Page(
        "ml-100k.md",
        "properties/quick_start/ml-100k.yaml",
        "0.3.0",
        {
            name: name
            for name in (
                *("Pop", "EASE", "TransitionMemory", "SASRec", "TIGER", "TIGER-constrained", "SIDMLP"),
                *("SIDMLPPlusPlus", "SIDMLPPlusPlus-item", "SIDMLPHybrid-memory"),
            )
        },
        _ALL,
        0.006,
        (2020,),
        texts=False,
    ),
    "split_by_time-ml-100k": Page(
        "split_by_time.md",
        "benchmarks/plans/time-ml-100k.yaml",
        "0.3.0",
        {
            **{name: name for name in ("Pop", "EASE", "TransitionMemory", "SASRec", "SIDMLPHybrid")},
            "TIGER, valid semantic IDs": "TIGER",
        },
        _BY_TIME,
        0.006,
        (2020,),
        texts=False,
        baseline="SASRec",
    ),
    "split_by_time-beauty": Page(
        "split_by_time.md",
        "benchmarks/plans/time-beauty.yaml",
        "0.3.0",
        {
            "Pop": "Pop",
            "TransitionMemory": "TransitionMemory",
            "TransitionMemory, text weight chosen": "TransitionMemory-text",
            "SIDMLPHybrid, 10 epochs": "SIDMLPHybrid",
            "SIDMLPHybrid with a memory": "SIDMLPHybrid-memory",
        },
        _BY_TIME,
        0.0012,
        (2020,),
    ),
}


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    data = parser.parse_args().data
    for name, page in PAGES.items():
        print(write_sheet(ROOT / "results" / f"{name}.yaml", page, data))


def write_sheet(path: Path, page: Page, data: Path) -> Path:
    """Write the sheet of `page`, whose dataset lies in `data` if it does not ship with RecBole."""
    values, deviations = figures(page)
    plan = read_plan(ROOT / page.plan, _places(page, data), page.seeds)
    plan = _with_entries_for(plan, set(values))
    jobs = make_jobs(plan, "runs")
    first = plan.entries[0]
    places = _places(page, data)
    entries = tuple(
        entry._replace(settings={key: value for key, value in entry.settings.items() if key not in places})
        for entry in plan.entries
    )
    further = "".join(f" --{key}=..." for key in places)
    content = {
        "format": FORMAT,
        "recbole_sid": page.version,
        "command": f"recbole-sid compare --plan={page.plan}{further}",
        "plan": plan_content(plan._replace(entries=entries)),
        "baseline": page.baseline,
        "data": {
            "files": atomic_hashes(Config(first.model, plan.dataset, first.files, first.settings)),
            "runs": {job.entry.name: job.data for job in jobs},
        },
        "machines": [{"recbole_sid": page.version, "device": "cpu", "versions": {"recbole": "1.2.1"}}],
        "tolerance": {**TOLERANCE, "absolute": page.spread},
        "results": values,
        "deviations": deviations,
        "checklist": {
            "the page": f"results/{page.page}: settings, data, spread, tests, cost and machine",
            "tolerance": "the largest spread over seeds that the page tells, and 5%",
        },
    }
    head = (
        f"The figures of results/{page.page}, of version {page.version}; later ones train otherwise in places "
        f"(CHANGELOG.md).\nIt needs{further or ' nothing'}; benchmarks/page_sheets.py writes it."
    )
    return write_content(path, content, head)


def _places(page: Page, data: Path) -> dict[str, str]:
    """Return settings that say where the data lie."""
    if not page.texts:
        return {}
    dataset = "beauty" if "beauty" in page.plan else "scientific"
    return {"data_path": str(data), "feature_file": str(data / dataset / f"{dataset}.{_EMBEDDINGS}")}


def figures(page: Page) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """Return row -> metric -> mean of a page, and the same of its deviations over seeds, where it tells them."""
    text = (ROOT / "results" / page.page).read_text(encoding="utf-8")
    for table in tables(text):
        label = next(iter(table[0]))
        rows = {row[label]: row for row in table}
        if set(page.rows) <= set(rows) and set(page.columns) <= set(table[0]):
            break
    else:
        raise LookupError(f"{page.page} has no table with the rows {list(page.rows)}.")
    values: dict[str, dict[str, float]] = {}
    deviations: dict[str, dict[str, float]] = {}
    for name, row in page.rows.items():
        cells = {metric: rows[name][column] for column, metric in page.columns.items()}
        values[row] = {metric: number(cell) for metric, cell in cells.items()}
        found = {metric: re.split(r"±|\+-", cell)[1:] for metric, cell in cells.items()}
        deviations[row] = {metric: number(after[0]) for metric, after in found.items() if after}
    return values, deviations


def _with_entries_for(plan: Plan, rows: set[str]) -> Plan:
    """Return the plan with the entries alone that have these rows, and those that they are made from."""
    wanted = {entry.name for entry in plan.entries if rows & set(entry.rows())}
    for entry in reversed(plan.entries):  # teachers and members stand before
        if entry.name in wanted:
            wanted |= _made_from(entry)
    return plan._replace(entries=tuple(entry for entry in plan.entries if entry.name in wanted))


def _made_from(entry: Entry) -> set[Any]:
    return {entry.teacher, *entry.members.values()} - {None}


if __name__ == "__main__":
    main()
