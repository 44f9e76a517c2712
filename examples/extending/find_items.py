"""A command: the items whose semantic IDs begin as that of an item."""

from __future__ import annotations

from recbole_sid.commands.call import Call, Command, Option, input_file
from recbole_sid.errors import InputError


def find(call: Call) -> None:
    """Print the items that share the first codes of ``--item``, with their codes."""
    from recbole_sid.semantic_ids.ready_made import read_semantic_ids  # imported here, so that help is quick

    semantic_ids = read_semantic_ids(input_file(call))
    codes = dict(zip(semantic_ids.item_tokens.tolist(), semantic_ids.codes.tolist(), strict=True))
    item, levels = call.options.get("item"), call.options.get("levels", 1)
    if item not in codes:
        raise InputError(f"--item={item} has no semantic ID in '{input_file(call)}'.")
    for other, found in codes.items():
        if found[:levels] == codes[item][:levels]:
            print(other, *found)


FIND = Command(
    "find",
    "the items whose semantic IDs begin as that of an item",
    find,
    (
        Option("item", "the item", metavar="TOKEN"),
        Option("levels", "codes that they share", type=int, default=1, metavar="N"),
    ),
    "recbole-sid find FILE.npz --item=B0012",
    Option("input", "semantic IDs of any format", metavar="FILE"),
    keys=False,
)
