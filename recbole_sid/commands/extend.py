"""``recbole-sid extend``: semantic IDs for items that came after training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recbole_sid.commands.call import (
    CONFIG_FILES,
    DATASET,
    JSON,
    Call,
    Command,
    Option,
    config_files,
    input_file,
    write_result,
)
from recbole_sid.errors import InputError

if TYPE_CHECKING:
    from recbole_sid.data import SemanticIDs


def extend(call: Call) -> None:
    """Give semantic IDs to the items of a dataset that have none, and show how the levels fill up."""
    from recbole_sid.config import Config
    from recbole_sid.data import create_dataset
    from recbole_sid.evaluation.tables import markdown_table
    from recbole_sid.semantic_ids.extend import extend_to_items
    from recbole_sid.semantic_ids.ready_made import read_semantic_ids

    file = input_file(call)
    if "output" not in call.options:
        raise InputError("extend needs --output=FILE.npz: the file to write, which may be the one that is read.")
    config = Config("TIGER", call.options.get("dataset"), config_files(call), call.overrides)
    before = read_semantic_ids(file, dataset=config["dataset"])
    items = create_dataset(config).item_tokens()
    extended = extend_to_items(before, config, items)
    extended.save(call.options["output"])
    rows, n_new, n_items = _rows(before, extended), len(extended.codes) - len(before.codes), len(items)
    details = {"items": n_items, "new_items": n_new, "path": call.options["output"]}
    write_result(call, config, rows, {**details, "fingerprint": extended.fingerprint})
    print(
        f"{markdown_table(rows)}\n\n{n_new:,} of the dataset's {n_items:,} items had no semantic ID and have one now; "
        f"those of {len(before.codes):,} items are unchanged.\n"
        f"Written: {call.options['output']} ({extended.fingerprint})"
    )


def _rows(before: SemanticIDs, after: SemanticIDs) -> list[dict[str, Any]]:
    """Return per level how many of its codes are in use before and after."""
    import numpy as np

    used = [[len(np.unique(level)) for level in semantic_ids.codes.T] for semantic_ids in (before, after)]
    levels = zip(after.codebook_sizes, *used, strict=True)
    return [
        {"level": level, "size": size, "used_before": old, "used": new}
        for level, (size, old, new) in enumerate(levels, 1)
    ]


EXTEND = Command(
    "extend",
    "semantic IDs for items that came later",
    extend,
    (DATASET, CONFIG_FILES, JSON, Option("output", "file to write (.npz)", metavar="FILE", output="file")),
    "recbole-sid extend FILE.npz --dataset=ml-100k --output=FILE.npz",
    Option("input", "semantic IDs made by tokenize", metavar="FILE"),
)
