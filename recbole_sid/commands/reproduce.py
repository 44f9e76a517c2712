"""``recbole-sid reproduce``: a comparison run again from its sheet."""

from __future__ import annotations

from recbole_sid.commands.call import JSON, Call, Command, Option, input_file, write_result


def reproduce(call: Call) -> int:
    """Run the plan of a sheet and compare; return the exit status: 1 if something differs by more than it may."""
    from recbole_sid.api import reproduce as reproduced
    from recbole_sid.evaluation.tables import markdown_table

    found = reproduced(input_file(call), config_dict=call.overrides, output=call.options.get("output"))
    rows = found.table.to_dict("records")
    write_result(call, found.comparison.config, rows, found.comparison.details)
    differing = [{key: value for key, value in row.items() if key != "same"} for row in rows if not row["same"]]
    print(f"\nWritten to {found.comparison.files[0].parent}.")
    if found.comparison.reused:
        n_runs = len(found.comparison.details["runs"])
        print(f"{found.comparison.reused} of {n_runs} runs were there from earlier and are reused.")
    if not differing:
        print(f"Reproduced: all {len(rows)} values are within the tolerance that '{input_file(call)}' states.")
        return 0
    print(f"Not reproduced: {len(differing)} of {len(rows)} values differ by more than the sheet allows.\n")
    print(markdown_table(differing))
    for failure in found.comparison.failures:
        print(f"- {failure}")
    return 1


REPRODUCE = Command(
    "reproduce",
    "run a comparison again from its sheet, and say what differs",
    reproduce,
    (JSON, Option("output", "folder for tables, pictures and runs", metavar="FOLDER", output="folder")),
    "recbole-sid reproduce saved/comparison/ml-100k/comparison.yaml",
    Option("input", "comparison.yaml, as compare writes it", metavar="FILE"),
)
