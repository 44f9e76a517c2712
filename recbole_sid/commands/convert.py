"""``recbole-sid convert``."""

from __future__ import annotations

from recbole_sid.commands.call import Call, write_result


def convert(call: Call) -> None:
    """Write a dataset's atomic files from the files of a release."""
    from recbole_sid.data.convert import convert_dataset, convert_options, summary_rows
    from recbole_sid.evaluation.comparison import markdown_table

    options = convert_options(call.overrides, call.options.get("dataset"), call.options.get("output", "dataset"))
    result = convert_dataset(options)
    rows = summary_rows(options, result)
    files = [str(file) for file in result.files]
    details = {"items_without_text": result.items_without_text, "files": files}
    write_result(call, {"seed": None, "device": "cpu"}, rows, details)
    missing = result.items_without_text or 0
    note = f"\n{missing:,} items have no row in the item file and got empty texts." if missing else ""
    print(f"\n{markdown_table(rows)}\n{note}\nWritten: {', '.join(files)}")
