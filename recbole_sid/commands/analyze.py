"""``recbole-sid analyze``: what test instances need, memorization or generalization, and how models do on each."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from recbole_sid.commands.call import CONFIG_FILES, DATASET, JSON, Call, Command, Option, config_files, write_result
from recbole_sid.errors import InputError
from recbole_sid.util.values import parse_value

if TYPE_CHECKING:
    from recbole_sid.config import Config
    from recbole_sid.evaluation.runs import FinishedRun


def analyze(call: Call) -> None:
    """Label the instances of a split and, with ``--runs``, show how finished runs do on them."""
    from recbole_sid.comparison.groups import in_plan_order
    from recbole_sid.evaluation.runs import find_runs
    from recbole_sid.generalization.analysis import analyze as find
    from recbole_sid.generalization.analysis import label_split, run_semantic_ids
    from recbole_sid.generalization.analysis_files import summary, write_analysis

    started = perf_counter()
    split = call.options.get("split", "test")
    runs = [] if _is_labels_only(call) else in_plan_order(find_runs(call.options["runs"].split()))
    if runs and split != "test":
        raise InputError(f"--split={split} has no runs: their results are of the test split; add --labels-only.")
    config = _config(call, runs)
    labelled = label_split(
        config, split, _hops(call), run_semantic_ids(config, runs, call.overrides), call.overrides.keys()
    )
    analysis = find(labelled, runs, config["show_progress"], call.options.get("id_model"))
    details = {"dataset": config["dataset"], "split": split, "instances": len(labelled.labels), "hops": labelled.hops}
    if runs:
        details["runs"] = [str(run.per_user) for run in runs]
    folder = call.options.get("output", str(Path("saved") / "analysis" / config["dataset"]) if runs else None)
    written = write_analysis(analysis, labelled, folder, details) if folder else []
    tables = {key: rows for key, rows in analysis._asdict().items() if rows and key != "shares"}
    write_result(call, config, analysis.shares, {**details, **tables})
    files = [str(path) for path in written] + ([call.options["json"]] if "json" in call.options else [])
    ending = f" Written: {', '.join(files)}" if files else ""
    print(f"\n{summary(analysis)}\n{details['instances']:,} instances in {perf_counter() - started:.0f} s.{ending}")


def _is_labels_only(call: Call) -> bool:
    labels_only = parse_value(call.options.get("labels_only", "False")) is True
    if labels_only == ("runs" in call.options):
        raise InputError("analyze needs either --runs=DIR (folders of finished runs) or --labels-only.")
    return labels_only


def _hops(call: Call) -> Any:
    return parse_value(call.options.get("hops", "4"))


def _config(call: Call, runs: list[FinishedRun]) -> Config:
    """Return a sequential model's configuration of the data: as given, else as the runs recorded it."""
    from recbole_sid.config import Config
    from recbole_sid.data.dataset import check_folder
    from recbole_sid.evaluation.recorded_data import data_config

    if not runs:
        return Config("SASRec", call.options.get("dataset"), config_files(call), call.overrides)
    recorded = runs[0].result
    if call.options.get("dataset", recorded["dataset"]) != recorded["dataset"]:
        raise InputError(
            f"--dataset={call.options['dataset']} but the runs are of {recorded['dataset']}: leave it out."
        )
    config = data_config(recorded, config_files(call), call.overrides)
    check_folder(config)
    return config


ANALYZE = Command(
    "analyze",
    "what test instances need, memorization or generalization, and how models do on each",
    analyze,
    (
        Option("runs", 'folders of finished runs of compare, as "A B"', metavar="FOLDERS"),
        Option("labels_only", "label the instances, without runs", default=False, alone="True"),
        Option("id_model", "the model among the runs whose indicator of memorization is shown", metavar="NAME"),
        Option("hops", "longest chain of items that counts", default=4, metavar="N"),
        Option("split", "test, or valid with --labels-only", default="test", metavar="NAME"),
        DATASET,
        CONFIG_FILES,
        JSON,
        Option("output", "folder for tables and pictures", metavar="FOLDER", output="folder"),
    ),
    "recbole-sid analyze --runs=saved/comparison/ml-100k/runs",
)
