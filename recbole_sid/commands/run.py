"""``recbole-sid run``."""

from __future__ import annotations

import os
from typing import Any

from recbole_sid.commands.call import (
    CONFIG_FILES,
    DATASET,
    JSON,
    MODEL,
    Call,
    Command,
    Option,
    config_files,
    write_result,
)
from recbole_sid.errors import InputError
from recbole_sid.util.values import parse_value

_RAYS = ("address", "cpus", "gpus", "retries")  # options that need --workers


def run(call: Call) -> None:
    """Train and test one model, here or in several processes."""
    from recbole_sid.distributed.group import current_group
    from recbole_sid.distributed.launch import launch
    from recbole_sid.distributed.ray_launch import launch_on_ray
    from recbole_sid.evaluation.tables import markdown_table
    from recbole_sid.quick_start import is_launcher
    from recbole_sid.settings.run import LaunchSettings

    config = _config(call)
    for key in _RAYS:
        if key in call.options and "workers" not in call.options:
            raise InputError(f"--{key} is of the processes that Ray starts: name how many, by --workers=N.")
    if "workers" in call.options:
        workers = _workers(call, config)
        place = {"use_gpu": workers.gpus > 0}
        here = call._replace(overrides={**call.overrides, **place})
        trained = launch_on_ray(train, (here,), workers, config["checkpoint_dir"])
    elif is_launcher(config):
        trained = launch(train, (call,), LaunchSettings.of(config).processes())
    else:
        trained = train(call)
    if current_group().is_main and not config["group_offset"]:  # the first machine's launcher writes
        write_result(call, {"seed": config["seed"], "device": trained["device"]}, [trained["row"]])
        print(f"\n{markdown_table([trained['row']])}\n\nWritten: {trained['file']}")


def _config(call: Call) -> Any:
    from recbole_sid.config import Config

    return Config(call.options.get("model"), call.options.get("dataset"), config_files(call), call.overrides)


def train(call: Call) -> dict[str, Any]:
    """Train and test in this process, perhaps one of several; return the row of the result, device and checkpoint."""
    from recbole_sid.evaluation.throughput import users_per_second
    from recbole_sid.model.generator import Generator
    from recbole_sid.quick_start import count_parameters, run_model

    config = _config(call)
    result = run_model(config)
    trained = result.trainer.model
    constrained = isinstance(trained, Generator) and trained.constrained
    row = {
        "model": f"{config['model']}-constrained" if constrained else config["model"],
        **{name: float(value) for name, value in (result.test_result or {}).items()},
        **({"users_per_s": users_per_second(result.trainer, result.test_data, 1)} if result.test_data else {}),
        "parameters": count_parameters(result.trainer.model),
        "wall_s": result.train_s,
    }
    return {"row": row, "device": str(config["device"]), "file": str(result.trainer.saved_model_file)}


def _workers(call: Call, config: Any) -> Any:
    """Return which processes Ray is to start.

    Raises:
        InputError: for numbers that make no sense, other processes asked for too, or a model that trains in one.
    """
    from recbole_sid.distributed.ray_launch import Workers
    from recbole_sid.registry import is_ours
    from recbole_sid.settings.recbole_checks import refuse_launch

    refuse_launch(config, "--workers has Ray start the processes: each trains")
    if not is_ours(config.model_class):
        raise InputError(f"{config['model']} is RecBole's and trains in one process: leave out --workers.")
    if "gpu_id" in call.overrides:
        raise InputError("Ray chooses the GPUs of --workers: leave out gpu_id.")
    number = _whole(call, "workers", 1, 1)
    address = call.options.get("address")
    share = 1 if address else max(1, (os.cpu_count() or 1) // number)
    gpus = _whole(call, "gpus", 0, 0)
    if gpus > 1:
        raise InputError(f"--gpus={gpus} must be 0 or 1: each worker computes on one GPU at most.")
    return Workers(number, _whole(call, "cpus", share, 1), gpus, address, _whole(call, "retries", 3, 0))


def _whole(call: Call, key: str, default: int, least: int) -> int:
    value = parse_value(call.options.get(key, str(default)))
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"--{key}={value} must be a whole number of at least {least}.")
    return value


RUN = Command(
    "run",
    "train and test one model",
    run,
    (
        MODEL,
        DATASET,
        Option("workers", "processes that train it together, started by Ray (docs/scaling.md)", metavar="N"),
        Option("cpus", "of a worker, and its threads; by default its share of this machine", metavar="N"),
        Option("gpus", "of a worker, 0 or 1", default=0, metavar="N"),
        Option("retries", "how often the workers are started again when one is lost", default=3, metavar="N"),
        Option("address", "of a running Ray cluster", metavar="HOST:PORT"),
        CONFIG_FILES,
        JSON,
    ),
    "recbole-sid run --model=SIDMLP --dataset=ml-100k",
    in_group=True,
)
