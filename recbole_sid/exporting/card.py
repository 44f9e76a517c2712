"""The model card: what a trained model is, was trained and measured on, and what it cannot be trusted with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recbole_sid.serving.bundle import HISTORIES

_CARD = """\
---
library_name: recbole-sid
tags: [recommendation, sequential-recommendation, semantic-ids]
---

# {model} on {dataset}

Ranks {items:,} items by what somebody took before. A bundle of recbole-sid {version}, made {created}.

    from recbole_sid.serving import Recommender
    Recommender.load("this directory").recommend([["an item", "a later one"]], k=10)

or `recbole-sid serve DIRECTORY`. It loads without RecBole, and runs no code of these files.

## Model

{model_table}

## Data

{data_table}

## Protocol

{protocol_table}

## Metrics

{metrics}

## Limits

{limits}
"""
_SELECTED = (
    "The training was selected by its metrics on the validation split; those on the test split were taken after it."
)
_ON_ALL = (
    "None: it was trained on all interactions, so that nothing is left to measure it by. Judge it by the run whose "
    "settings it has, which held out a part."
)
_NO_TEST = "The test split's metrics were not recorded with this training."
_LEAKS = (
    "- Each user's last interaction tests and the one before validates, whenever these happened: the training part "
    "holds interactions of others that came later than these. The metrics are comparable with the literature's, and "
    "higher than those of a model that only knows the past."
)
_OF_MODEL = ("parameters", "codebook_sizes", "engine's lists", "model.onnx", "model.pt2")
_JOINED = (
    "- {} items joined after training: the model knows them by their codes only, and the metrics are without them."
)
_USERS = "- It holds the histories of its users, known by their ids: treat it as the data that they are."
_ALWAYS = (
    "- Only these items are ranked; new ones need `recbole-sid extend-bundle` or another export.",
    "- Popular items are recommended more than their share, as by any model that learns from clicks.",
    "- Metrics are of the data above; on other data, shops or times they say little.",
)


def model_card(manifest: Mapping[str, Any]) -> str:
    """Return the card of a bundle in Markdown.

    Args:
        manifest: as `recbole_sid.serving.bundle.Manifest`.
    """
    protocol = dict(manifest["protocol"])
    sizes, prints = dict(manifest["sizes"]), dict(manifest["fingerprints"])
    return _CARD.format(
        model=manifest["model"],
        dataset=protocol.pop("dataset", "unknown data"),
        items=manifest["n_items"] - 1,
        version=manifest["version"],
        created=manifest["created"],
        model_table=_table({"engine": manifest["engine"], **_named(sizes, _OF_MODEL)}),
        data_table=_table({**sizes, **{f"fingerprint of {name}": value for name, value in prints.items()}}),
        protocol_table=_table(protocol),
        metrics=_metrics(manifest),
        limits="\n".join(_limits(manifest)),
    )


def _named(values: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Take `names` out of `values`, where they are there."""
    return {name: values.pop(name) for name in names if name in values}


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in values.items()]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _cell(value: Any) -> str:
    if isinstance(value, (dict, list)):
        value = json.dumps(value, ensure_ascii=False)
    text = f"{value:,}" if type(value) is int and value >= 10_000 else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _metrics(manifest: Mapping[str, Any]) -> str:
    metrics = manifest["metrics"]
    validation, test = metrics.get("validation") or {}, metrics.get("test") or {}
    if not validation and not test and _left_out(manifest) == "none":
        return _ON_ALL
    rows = [
        f"| {name} | {_number(validation.get(name))} | {_number(test.get(name))} |"
        for name in dict.fromkeys([*test, *validation])
    ]
    said = [_SELECTED, *([] if test else [_NO_TEST])]
    table = ["| metric | validation | test |", "| --- | --- | --- |", *rows] if rows else []
    return "\n".join([*said, "", *table]).rstrip()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _left_out(manifest: Mapping[str, Any]) -> Any:
    """Return what leave-last-out leaves out, such as valid_and_test or none; None for other splits."""
    settings = manifest["protocol"].get("eval_args")
    split = settings.get("split") if isinstance(settings, dict) else None
    return split.get("LS") if isinstance(split, dict) else None


def _limits(manifest: Mapping[str, Any]) -> list[str]:
    leaks = [_LEAKS] if _left_out(manifest) not in (None, "none") else []
    untrained = manifest["sizes"].get("items_without_training")
    joined = [_JOINED.format(untrained)] if untrained else []
    return [*leaks, *joined, *_ALWAYS, *([_USERS] if HISTORIES in manifest["files"] else [])]
