"""The whole search: the teacher first, the trials, the files, and the winner on the test split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from recbole_sid.cluster import ray_running
from recbole_sid.config import Config
from recbole_sid.data import create_dataset
from recbole_sid.errors import InputError
from recbole_sid.tuning.findings import Findings, gather
from recbole_sid.tuning.progress import SearchStanding, followed_by
from recbole_sid.tuning.search import (
    Options,
    make_plan,
    n_trials,
    run_search,
    train_common_teacher,
)
from recbole_sid.tuning.search_files import table, write_search
from recbole_sid.tuning.space import Space
from recbole_sid.tuning.trainable import run_trial
from recbole_sid.tuning.trial import SearchPlan, prepare
from recbole_sid.util.files import write_json
from recbole_sid.util.reading import read_json
from recbole_sid.util.typed_json import first_fault

RESULT = "result.json"  # in a search's folder: it came to its end


class Winner(TypedDict):
    """What ``result.json`` holds of a search; JSON types only.

    Attributes:
        metric: name of the validation score.
        trials: how a trial ended -> how many did so.
        restarts: of all trials.
        best_trial: its name.
        best_valid_score, model_file: of the best trial.
        test_result: name -> value on the test split, of the best trial.
    """

    metric: str
    trials: dict[str, int]
    restarts: int
    best_trial: str
    best_valid_score: float
    model_file: str
    test_result: dict[str, float]


class SearchResult(NamedTuple):
    """What a search gives back.

    Attributes:
        plan: what was searched.
        result: as in ``result.json``.
        table: the best trials, as Markdown.
        files: written.
    """

    plan: SearchPlan
    result: Winner
    table: str
    files: Sequence[Path]


def evaluate_winner(plan: SearchPlan, findings: Findings) -> dict[str, float]:
    """Evaluate the best trial's best weights on the test split: the only time that a search reads it."""
    name = str(findings.best["trial"])
    prepared = prepare(plan, findings.samples[name], name)
    prepared.trainer.eval_collector.data_collect(prepared.train_data)
    result = prepared.trainer.evaluate(
        prepared.test_data, load_best_model=True, model_file=findings.best["model_file"], show_progress=False
    )
    return {metric: float(value) for metric, value in result.items()}


def search(
    config: Config,
    space: Space,
    options: Options,
    storage_path: str | None = None,
    resume: bool = False,
    trainable: Callable[..., None] = run_trial,
    evaluate: Callable[[SearchPlan, Findings], dict[str, float]] = evaluate_winner,
    tell: Callable[[str], None] = print,
) -> SearchResult:
    """Search `space` for the best validation score and test the winner, once.

    Args:
        config: settings below the space.
        space: what to search.
        options: how.
        storage_path: where searches are kept; None: ``checkpoint_dir/tune``.
        resume: continue an interrupted search of the same configuration, space and options.
        trainable: what Ray runs as a trial.
        evaluate: gives the winner's test result.
        tell: told where things stand, in lines.

    Raises:
        InputError: for input that the user can mend, or if no trial came to a score.
        KeyboardInterrupt: if the search was interrupted; what there is so far has been written.
    """
    plan = make_plan(config, space, options, storage_path)
    folder = Path(plan.folder)
    metric = config["valid_metric"]
    finished = folder / RESULT
    if resume and finished.is_file():
        tell(f"The search in {folder} is complete; nothing is left to resume.")
        return _written(plan)
    create_dataset(config)  # what is wrong with the data is said once and now, not by every trial
    with ray_running(options.address):
        if options.address is None:
            train_common_teacher(plan, config)
        with followed_by(*_standing_of(plan, config, options, tell)):
            results = run_search(plan, config, options, resume, trainable)
        findings = gather(plan, results, bool(config["valid_metric_bigger"]))
    interrupted = findings.n_ended() < n_trials(plan, options)
    if not findings.n_scored():
        if interrupted and not findings.first_error():
            raise KeyboardInterrupt
        raise InputError(f"No trial of the search came to a score{findings.first_error()}; see '{folder}'.")
    files = write_search(plan, findings, metric)
    shown = table(plan, findings, metric)
    if interrupted:
        tell(f"\n{shown}\n\nInterrupted after {findings.n_ended()} trials; the best so far: {folder}/best.yaml")
        raise KeyboardInterrupt
    best = findings.best
    result: Winner = {
        "metric": metric,
        "trials": {key: int(count) for key, count in findings.trials["status"].value_counts().items()},
        "restarts": int(findings.trials["restarts"].sum()),
        "best_trial": str(best["trial"]),
        "best_valid_score": float(best["score"]),
        "model_file": best["model_file"],
        "test_result": evaluate(plan, findings),
    }
    write_json(finished, result)
    return SearchResult(plan, result, shown, [*files, finished])


def _standing_of(
    plan: SearchPlan, config: Config, options: Options, tell: Callable[[str], None]
) -> tuple[SearchStanding, bool]:
    """Return what the search tells how it stands, and whether to show it: as a panel beside `print` alone."""
    show = bool(config["show_progress"])
    lines = tell if show else lambda line: None
    bigger = bool(config["valid_metric_bigger"])
    return SearchStanding(n_trials(plan, options), config["valid_metric"], bigger, lines), show and tell is print


def _written(plan: SearchPlan) -> SearchResult:
    """Return the outcome of a search that is complete."""
    folder = Path(plan.folder)
    file = folder / RESULT
    result = read_json(file)
    wrong = first_fault(result, Winner)
    if wrong is not None:
        raise InputError(
            f"'{file}' is no result of a search (its {wrong} is missing or wrong): delete it to search again."
        )
    return SearchResult(plan, result, (folder / "table.md").read_text(encoding="utf-8").rstrip(), [file])
