"""The machines that a comparison's runs were made on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from recbole_sid.evaluation.runs import RunResult


def machines_of(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Return the different machines: recbole_sid (its version there), device, what `util.machine.machine` says, and
    runs, the names of those that were made there.
    """
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        machine = {"recbole_sid": result["version"], "device": result["device"], **(result.get("machine") or {})}
        known = found.setdefault(json.dumps(machine, sort_keys=True), {**machine, "runs": []})
        known["runs"].append(f"{result['name']} (seed {result['seed']})")
    return list(found.values())
