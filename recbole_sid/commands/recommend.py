"""``recbole-sid recommend``: lists for the histories of a file, or for known users."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from recbole_sid.commands.call import Call, Command, Option, input_file
from recbole_sid.commands.recommend_folder import OPTIONS, check_is_folder, recommend_folder
from recbole_sid.errors import InputError, require_known

if TYPE_CHECKING:
    from recbole_sid.serving.answering import Wish
    from recbole_sid.serving.recommender import Recommender


def recommend(call: Call) -> None:
    """Write the best items of every history of a file, or of known users."""
    from recbole_sid.serving.answering import answer_file, answer_users
    from recbole_sid.serving.list_files import writer_of
    from recbole_sid.util.files import check_writable

    source = input_file(call)
    if not Path(source).exists():
        raise InputError(f"There is no bundle or checkpoint at '{source}'.")
    if "output" not in call.options:
        raise InputError("recommend needs --output=FILE: .jsonl, .csv or .parquet.")
    if ("histories" in call.options) == ("users" in call.options):
        raise InputError("recommend needs either --histories=FILE or --users, which stands for the users it knows.")
    output, wish = call.options["output"], _wish(call)
    if call.options.get("histories") and Path(call.options["histories"]).is_dir():
        recommend_folder(call, source, call.options["histories"], output, wish)
        return
    check_is_folder(call)
    writer_of(output)
    check_writable(output)
    recommender = _recommender(source, call.overrides)
    started = perf_counter()
    if "histories" in call.options:
        count = answer_file(recommender, call.options["histories"], output, wish)
    else:
        count = answer_users(recommender, _users(call.options["users"]), output, wish)
    seconds = perf_counter() - started
    print(f"{count.summary}, {count.users / max(seconds, 1e-9):,.0f} users/s.\nWritten: {output}")


def _recommender(source: str, overrides: dict[str, Any]) -> Recommender:
    """Return what recommends by a bundle, a directory, or by a checkpoint."""
    from recbole_sid.serving.recommender import Recommender

    if Path(source).is_dir():
        if overrides:
            raise InputError(f"A bundle takes no configuration: leave out --{', --'.join(overrides)}.")
        return Recommender.load(source)
    from recbole_sid.exporting.trained import trained_recommender
    from recbole_sid.quick_start import load_data_and_model

    return trained_recommender(*load_data_and_model(source, overrides))


def _wish(call: Call) -> Wish:
    from recbole_sid.serving.answering import Wish
    from recbole_sid.serving.history_files import read_ids
    from recbole_sid.serving.recommender import ON_UNKNOWN

    exclude: Any = call.options.get("exclude", "seen")
    if exclude not in ("seen", "none"):
        exclude = read_ids(exclude)
    items = read_ids(call.options["items"]) if "items" in call.options else None
    on_unknown = call.options.get("on_unknown", "popularity")
    require_known("on_unknown", on_unknown, ON_UNKNOWN)
    return Wish(call.options.get("k", 20), None if exclude == "none" else exclude, items, on_unknown)


def _users(value: str) -> list[str] | None:
    """Return the users that a file names; None: all."""
    from recbole_sid.serving.history_files import read_ids

    return None if value == "True" else read_ids(value)


def _whole(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


_whole.__name__ = "whole number of at least 1"

RECOMMEND = Command(
    "recommend",
    "lists of items for the histories of a file, by a bundle or a checkpoint",
    recommend,
    (
        Option(
            "histories", "users with their items: .jsonl, .csv or .parquet, or a folder of .parquet", metavar="FILE"
        ),
        Option(
            "users", "known users instead: all, or those of a file with one id a line", metavar="FILE", alone="True"
        ),
        Option("k", "items for each user", _whole, default=20, metavar="N"),
        Option("output", "file to write: .jsonl, .csv or .parquet; or a folder for a folder", metavar="FILE"),
        Option(
            "exclude", "seen: the user's own items; none; or a file with one id a line", default="seen", metavar="WHAT"
        ),
        Option("items", "file with the ids, one a line, that alone may be recommended", metavar="FILE"),
        Option("on_unknown", "popularity, or error where no item of a history is known", default="popularity"),
        *OPTIONS,
    ),
    "recbole-sid recommend bundle --histories=users.jsonl --k=20 --output=lists.jsonl",
    Option("input", "bundle, or checkpoint", metavar="MODEL_OR_BUNDLE"),
)
