"""``recbole-sid extend-bundle, apply-delta``: bundles whose catalogues grow."""

from __future__ import annotations

from recbole_sid.commands.call import Call, Command, Option, input_file
from recbole_sid.errors import InputError


def extend_bundle(call: Call) -> None:
    """Let new items join a bundle."""
    from recbole_sid.exporting.extended import extend_bundle as extend
    from recbole_sid.exporting.new_items import read_new_items
    from recbole_sid.serving.bundle import Bundle
    from recbole_sid.serving.delta import write_delta
    from recbole_sid.util.files import check_absent

    path = input_file(call)
    for name, what in {"items": "FILE: the new items", "output": "DIR: the bundle to write"}.items():
        if name not in call.options:
            raise InputError(f"extend-bundle needs --{name}={what}.")
    delta = call.options.get("delta")
    if delta:
        check_absent(delta)
    found = read_new_items(path, call.options["items"], call.options.get("vectors"))
    grown = extend(path, call.options["output"], *found)
    later = Bundle.load(grown.path)
    print(f"{grown.n_new:,} new items; {later.manifest['n_items'] - 1:,} in all.")
    if grown.left_out:
        print(f"Left out, as they know the old items only: {', '.join(grown.left_out)}.")
    print(f"Written: {grown.path} ({later.identity})")
    if delta:
        write_delta(Bundle.load(path), later, delta)
        print(f"Written: {delta} (what `recbole-sid apply-delta` makes that bundle of)")


def apply_delta(call: Call) -> None:
    """Make a later bundle of an earlier one and a delta."""
    from recbole_sid.serving.delta import apply_delta as apply

    delta = input_file(call)
    for name, what in {"base": "the bundle that it was made for", "output": "the bundle to write"}.items():
        if name not in call.options:
            raise InputError(f"apply-delta needs --{name}=DIR: {what}.")
    made = apply(delta, call.options["base"], call.options["output"])
    print(f"Written: {made.path} ({made.identity})")


_BUNDLE = Option("input", "directory of a bundle", metavar="BUNDLE")
_OUTPUT = Option("output", "directory to write", metavar="DIR", output="folder")

EXTEND_BUNDLE = Command(
    "extend-bundle",
    "new items in a bundle, without training",
    extend_bundle,
    (
        Option("items", "new items: item_id, text fields, display fields (.csv, .jsonl, .parquet)", metavar="FILE"),
        Option("vectors", "their vectors, where the semantic IDs were made from such", metavar="FILE"),
        _OUTPUT,
        Option("delta", "also write what is new alone, for who has the old bundle", metavar="DIR", output="folder"),
    ),
    "recbole-sid extend-bundle bundle --items=new.csv --output=later",
    _BUNDLE,
    keys=False,
)
APPLY_DELTA = Command(
    "apply-delta",
    "a later bundle of an earlier one and a delta",
    apply_delta,
    (Option("base", "directory of the earlier bundle", metavar="DIR"), _OUTPUT),
    "recbole-sid apply-delta delta --base=bundle --output=later",
    Option("input", "directory of a delta, written by extend-bundle", metavar="DELTA"),
    keys=False,
)
