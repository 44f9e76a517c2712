"""``recbole-sid analyze``: what test instances need, memorization or generalization, and how models do on each."""

from __future__ import annotations

from time import perf_counter

from recbole_sid.commands.call import (
    CONFIG_FILES,
    DATASET,
    JSON,
    Call,
    Command,
    Option,
    config_files,
    is_set,
    write_result,
)
from recbole_sid.errors import InputError
from recbole_sid.util.values import parse_value


def analyze(call: Call) -> None:
    """Label the instances of a split and, with ``--runs``, show how finished runs do on them."""
    from recbole_sid.api import analyze as analyzed
    from recbole_sid.generalization.analysis_files import summary

    started = perf_counter()
    if is_set(call, "labels_only") == ("runs" in call.options):
        raise InputError("analyze needs either --runs=DIR (folders of finished runs) or --labels-only.")
    chosen = {key: call.options[key] for key in ("dataset", "id_model", "split", "output") if key in call.options}
    found = analyzed(
        call.options.get("runs", "").split(),
        **chosen,
        hops=parse_value(call.options.get("hops", "4")),
        config_file_list=config_files(call),
        config_dict=call.overrides,
    )
    tables = {key: rows for key, rows in found.analysis._asdict().items() if rows and key != "shares"}
    write_result(call, found.config, found.analysis.shares, {**found.details, **tables})
    files = [str(path) for path in found.files] + ([call.options["json"]] if "json" in call.options else [])
    ending = f" Written: {', '.join(files)}" if files else ""
    seconds = perf_counter() - started
    print(f"\n{summary(found.analysis)}\n{found.details['instances']:,} instances in {seconds:.0f} s.{ending}")


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
