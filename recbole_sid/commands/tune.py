"""``recbole-sid tune``."""

from __future__ import annotations

from typing import Any

from recbole_sid.commands.call import Call, config_files, write_result
from recbole_sid.config import PROPERTIES, Config, parse_value
from recbole_sid.errors import InputError

_NUMBERS = ("samples", "min_epochs", "concurrency", "retries", "cpus", "gpus")


def tune(call: Call) -> None:
    """Search hyper-parameters and write the report."""
    from recbole_sid.evaluation.comparison import markdown_table
    from recbole_sid.tune.job import search
    from recbole_sid.tune.search import Options
    from recbole_sid.tune.space import read_space

    chosen: dict[str, Any] = {key: parse_value(call.options[key]) for key in _NUMBERS if key in call.options}
    chosen |= {key: call.options[key] for key in ("scheduler", "searcher", "address") if key in call.options}
    settings = dict(call.overrides)
    resume = settings.pop("resume", False)
    config = Config(call.options.get("model"), call.options.get("dataset"), config_files(call), settings)
    space = read_space(call.options.get("space") or _shipped_space(config["model"]))
    outcome = search(config, space, Options(**chosen), call.options.get("storage_path"), bool(resume))
    result = outcome.result
    row = {"model": config["model"], **result["test_result"]}
    write_result(call, config, [row], {key: value for key, value in result.items() if key != "test_result"})
    names = ", ".join(file.name for file in outcome.files)
    ends = ", ".join(f"{count} {status}" for status, count in result["trials"].items())
    print(f"\n{outcome.table}\n\n{ends}; {result['restarts']} restarts. On test, {result['best_trial']}:\n")
    print(f"{markdown_table([row])}\n\nWritten to {outcome.plan.folder}: {names}")


def _shipped_space(model: str) -> str:
    """Return the space that comes with the package for `model`."""
    file = PROPERTIES / "tune" / f"{model}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise InputError(f"There is no search space for {model}: name one by --space=FILE (shipped: {known}).")
    return str(file)
