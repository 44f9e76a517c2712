"""``recbole-sid convert``."""

from __future__ import annotations

from recbole_sid.commands.call import DATASET, JSON, Call, Command, Option, write_result
from recbole_sid.util.values import parse_value


def convert(call: Call) -> None:
    """Write a dataset's atomic files from the files of a release."""
    from recbole_sid.data.convert.conversion import convert_dataset, convert_options, summary_rows
    from recbole_sid.evaluation.tables import markdown_table

    options = convert_options(call.overrides, call.options.get("dataset"), call.options.get("output", "dataset"))
    result = convert_dataset(options)
    rows = summary_rows(options, result)
    files = [str(file) for file in result.files]
    details = {"items_without_text": result.items_without_text, "files": files}
    write_result(call, {"seed": None, "device": "cpu"}, rows, details)
    missing = result.items_without_text or 0
    note = f"\n{missing:,} items have no row in the item file and got empty texts." if missing else ""
    print(f"\n{markdown_table(rows)}\n{note}\nWritten: {', '.join(files)}")


def _own(name: str, text: str, metavar: str = "COLUMN") -> Option:
    return Option(name, text, parse_value, metavar=metavar, key=True)


CONVERT = Command(
    "convert",
    "raw data to RecBole's atomic files",
    convert,
    (
        DATASET,
        _own("source", "amazon2023, which stands for the columns of Amazon Reviews 2023", "NAME"),
        _own("interactions", 'files of interactions: CSV, JSON lines or Parquet, .gz too, as "A.csv B.csv"', "FILES"),
        _own("user", "column of the user"),
        _own("item", "column of the item"),
        _own("time", "column of the time"),
        _own("rating", "column of the rating"),
        _own("items", "file with a row for each item", "FILE"),
        _own("item_id", "its column of the item; by default that of --item"),
        _own("item_fields", "its columns to write, as [title,brand]", "COLUMNS"),
        _own("separator", "of CSV files", "TEXT"),
        _own("show_progress", "show bars; by default True", "BOOL"),
        JSON,
        Option("output", "folder to put the dataset's into", default="dataset", metavar="FOLDER", output="folder"),
    ),
    "recbole-sid convert --source=amazon2023 --interactions=DIR/Video_Games --dataset=Video_Games --output=dataset",
    keys=False,
)
