"""What `recbole_sid.api` returns: DataFrames, and what they were made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from recbole_sid.comparison.summary import Summary
from recbole_sid.config import Config
from recbole_sid.generalization.analysis import Analysis
from recbole_sid.semantic_ids.artefact import SemanticIDs

if TYPE_CHECKING:
    from recbole_sid.tuning.tuning import SearchResult


class Tables:
    """What a prompt or a notebook shows as its `table`."""

    table: pd.DataFrame

    def __repr__(self) -> str:
        return f"{type(self).__name__}, its table:\n{self.table}"

    def _repr_html_(self) -> str:
        return self.table.to_html()


@dataclass(frozen=True, repr=False)
class ComparisonTables(Tables):
    """A finished comparison.

    Attributes:
        table: a row for each model and evaluation: model, seeds (how many), each metric and ``<metric>_sd`` (over
            seeds), share_of_teacher, users_per_s, parameters, train_s, peak_memory_mb.
        tests: of each row against the baseline, over users (`recbole_sid.comparison.statistics`); empty for one row.
        breakdown: NDCG@10 by history length, popularity and the like.
        failures: a sentence for each model that could not be trained.
        files: written, in the folder of ``output``.
        details: dataset, seeds and runs (the folder of each training, which `analyze` takes).
        summary: the same as rows.
        config: of the first model.
        reused: how many trainings were there before.
    """

    table: pd.DataFrame
    tests: pd.DataFrame
    breakdown: pd.DataFrame
    failures: list[str]
    files: list[Path]
    details: dict[str, Any]
    summary: Summary
    config: Config
    reused: int


@dataclass(frozen=True, repr=False)
class ReproductionTables(Tables):
    """A comparison run again.

    Attributes:
        table: a row for each value of the sheet: model, metric, stated, found, difference, allowed, same (bool).
        comparison: what was found.
    """

    table: pd.DataFrame
    comparison: ComparisonTables


@dataclass(frozen=True, repr=False)
class SearchTables(Tables):
    """A finished search.

    Attributes:
        table: a row for each trial, the best first: trial, status, restarts, score (on validation), epochs, the
            searched keys.
        curves: the validation score of each trial and epoch.
        test: metric -> value of the best trial on the test split, which is read for it alone.
        best: its settings, as ``best.yaml`` in `folder` holds them.
        folder: of the search.
        outcome: what `recbole_sid.tuning.tuning.search` returned.
        config: below the space.
    """

    table: pd.DataFrame
    curves: pd.DataFrame
    test: dict[str, float]
    best: dict[str, Any]
    folder: Path
    outcome: SearchResult
    config: Config


@dataclass(frozen=True, repr=False)
class SemanticIDTables(Tables):
    """Semantic IDs and their quality.

    Attributes:
        table: a row for each level: used, size, perplexity, ... (docs/semantic_ids.md).
        report: all of the report: collisions, warnings, neighbourhood ...
        semantic_ids: the codes, by item.
        path: of the file.
        report_folder: where the report was written; None: nowhere.
        config: of the data and the tokenizer.
    """

    table: pd.DataFrame
    report: dict[str, Any]
    semantic_ids: SemanticIDs
    path: Path
    report_folder: Path | None
    config: Config


@dataclass(frozen=True, repr=False)
class AnalysisTables(Tables):
    """What test instances need, and how models do on each kind; tables without what they need are empty.

    Attributes:
        table: how many instances each category has, and their share.
        categories: metrics of each model by category, with intervals over users.
        predicted: the categories of what each model predicts.
        tokens: the longest memorized prefix of semantic IDs, by category.
        support, dilution, indicator: docs/analysis.md.
        labels: a row for each instance.
        files: written.
        details: dataset, split, instances, hops, runs.
        analysis: the same as rows.
        config: of the data.
    """

    table: pd.DataFrame
    categories: pd.DataFrame
    predicted: pd.DataFrame
    tokens: pd.DataFrame
    support: pd.DataFrame
    dilution: pd.DataFrame
    indicator: pd.DataFrame
    labels: pd.DataFrame
    files: list[Path]
    details: dict[str, Any]
    analysis: Analysis
    config: Config
