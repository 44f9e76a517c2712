"""``recbole-sid tokenize, report, import, export``: semantic IDs from features and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_sid.commands.call import (
    CONFIG_FILES,
    DATASET,
    JSON,
    MODEL,
    Call,
    Command,
    Option,
    config_files,
    input_file,
    is_set,
    write_result,
)
from recbole_sid.errors import InputError


def tokenize(call: Call) -> None:
    """Make semantic IDs and show their quality."""
    from recbole_sid.api import tokenize as tokenized
    from recbole_sid.semantic_ids.report import report_text

    chosen = {key: call.options[key] for key in ("model", "dataset", "output") if key in call.options}
    report = call.options.get("report", False)
    found = tokenized(
        **chosen,
        report=True if report == "True" else report,
        config_file_list=config_files(call),
        config_dict=call.overrides,
    )
    written = [f"{found.path} ({found.semantic_ids.fingerprint})"]
    if found.report_folder is not None:
        written.append(f"{found.report_folder}/report.md, .json, .png, .pdf, .svg")
    details = {key: value for key, value in found.report.items() if key != "rows"}
    write_result(call, found.config, found.report["rows"], {**details, "path": str(found.path)})
    print(f"{report_text(found.report)}\nWritten: {', '.join(written)}")


def report(call: Call) -> None:
    """Report on the quality of semantic IDs in a file, with a dataset also on what codes mean there."""
    from recbole_sid.config import Config
    from recbole_sid.data.dataset import create_history_dataset
    from recbole_sid.features import item_features
    from recbole_sid.semantic_ids.ready_made import read_semantic_ids
    from recbole_sid.semantic_ids.report import report_of_config, report_text, sid_report, write_report
    from recbole_sid.semantic_ids.tree_page import write_tree_page

    file, settings = input_file(call), {"seed": None, "device": "cpu"}
    as_page, titles = is_set(call, "html"), None
    options: dict[str, Any] = {"file_format": call.options.get("format"), "numbering": call.options.get("numbering")}
    if "dataset" in call.options:
        settings = config = Config("TIGER", call.options["dataset"], config_files(call), call.overrides)
        train_dataset = create_history_dataset(config).build()[0]
        semantic_ids = read_semantic_ids(file, train_dataset.item_tokens(), dataset=config["dataset"], **options)
        found = report_of_config(semantic_ids, train_dataset, item_features(config, train_dataset), config)
        titles = _titles(config, semantic_ids) if as_page else None
    elif call.overrides or config_files(call):
        raise InputError("report needs --dataset for configuration keys to mean something: add it, or leave them out.")
    else:
        semantic_ids = read_semantic_ids(file, **options)
        found = sid_report(semantic_ids)
    folder = Path(call.options.get("output", Path("saved") / "reports" / Path(file).name))
    write_report(found, semantic_ids, folder)
    write_result(call, settings, found["rows"], {key: value for key, value in found.items() if key != "rows"})
    if as_page:
        write_tree_page(found, semantic_ids, folder / "report.html", titles, call.options.get("dataset", ""))
    print(f"{report_text(found)}\nWritten: {folder}/report.md, .json, .png, .pdf, .svg{', .html' if as_page else ''}")


def _titles(config: Any, semantic_ids: Any) -> Any:
    """Return the titles of the items, str [n_items]; None if the dataset has none."""
    import numpy as np

    from recbole_sid.exporting.items_and_users import display_fields

    fields = display_fields(config, semantic_ids.item_tokens, None)
    return np.asarray(next(iter(fields.values())), dtype=str) if fields else None


def import_files(call: Call) -> None:
    """Make one of our files of others' semantic IDs or, if a model is named, of others' weights."""
    if "model" in call.options:
        _import_weights(call)
    else:
        _import_semantic_ids(call)


def _import_weights(call: Call) -> None:
    from recbole_sid.interop.import_weights import import_checkpoint

    target = import_checkpoint(
        input_file(call),
        call.options["model"],
        call.options.get("dataset"),
        config_files(call),
        call.overrides,
        encoder_file=call.options.get("encoder_file"),
        output=call.options.get("output"),
    )
    print(f"Written: {target}")


def _import_semantic_ids(call: Call) -> None:
    from recbole_sid.config import Config
    from recbole_sid.data.dataset import create_history_dataset
    from recbole_sid.semantic_ids.build import semantic_ids_from_file
    from recbole_sid.semantic_ids.report import report_text, sid_report

    config = Config("TIGER", call.options.get("dataset"), config_files(call), call.overrides)
    train_dataset = create_history_dataset(config).build()[0]
    semantic_ids = semantic_ids_from_file(
        config,
        train_dataset,
        input_file(call),
        file_format=call.options.get("format"),
        numbering=call.options.get("numbering"),
        codebook_sizes=config.external_config_dict.get("codebook_sizes"),
    )
    name = f"{config['dataset']}-{semantic_ids.fingerprint}.npz"
    path = call.options.get("output") or Path(config["checkpoint_dir"]) / "semantic_ids" / "imported" / name
    semantic_ids.save(path)
    found = sid_report(semantic_ids)
    details = {key: value for key, value in found.items() if key != "rows"}
    write_result(call, config, found["rows"], {**details, "path": str(path)})
    print(f"{report_text(found)}\nWritten: {path} ({semantic_ids.fingerprint})")


def export(call: Call) -> None:
    """Write semantic IDs in another format."""
    from recbole_sid.semantic_ids.ready_made import read_semantic_ids, write_semantic_ids

    if "output" not in call.options:
        raise InputError("export needs --output=FILE: its ending says the format, or --format does.")
    semantic_ids = read_semantic_ids(input_file(call), numbering=call.options.get("numbering"))
    written = write_semantic_ids(semantic_ids, call.options["output"], call.options.get("format"))
    print(f"Written: {', '.join(str(file) for file in written)}")


_INPUT = Option("input", "semantic IDs of any format", metavar="FILE")
_FORMAT = Option("format", "json, index, sem_ids, tensor, csv or parquet; by default by the ending", metavar="NAME")
_NUMBERING = Option("numbering", "names of numbered items, one a line", metavar="FILE")

TOKENIZE = Command(
    "tokenize",
    "make semantic IDs",
    tokenize,
    (
        MODEL,
        DATASET,
        Option("report", "write the quality report too, into this folder if named", alone="True", metavar="FOLDER"),
        CONFIG_FILES,
        JSON,
        Option("output", "file to write (.npz)", metavar="FILE", output="file"),
    ),
    "recbole-sid tokenize --dataset=ml-100k",
)
REPORT = Command(
    "report",
    "the quality of semantic IDs",
    report,
    (
        DATASET,
        Option(
            "html", "write a page too: the tree to walk through, shared codes, neighbours", default=False, alone="True"
        ),
        _FORMAT,
        _NUMBERING,
        CONFIG_FILES,
        JSON,
        Option("output", "folder for report and picture", metavar="FOLDER", output="folder"),
    ),
    "recbole-sid report saved/semantic_ids/FILE.npz --dataset=ml-100k --html",
    _INPUT,
)
IMPORT = Command(
    "import",
    "semantic IDs of any format or, with --model, others' weights",
    import_files,
    (
        MODEL,
        DATASET,
        _FORMAT,
        _NUMBERING,
        Option("encoder_file", "weights of the encoder, where they lie in a file of their own", metavar="FILE"),
        CONFIG_FILES,
        JSON,
        Option("output", "file to write", metavar="FILE", output="file"),
    ),
    "recbole-sid import FILE --dataset=ml-100k",
    Option("input", "semantic IDs or weights", metavar="FILE"),
)
EXPORT = Command(
    "export",
    "semantic IDs in another format",
    export,
    (
        _FORMAT,
        _NUMBERING,
        Option("output", "file to write; its ending says the format, or --format does", metavar="FILE", output="file"),
    ),
    "recbole-sid export FILE.npz --output=FILE.csv",
    _INPUT,
    keys=False,
)
