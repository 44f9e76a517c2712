"""``recbole-sid run``."""

from __future__ import annotations

from typing import Any

from recbole_sid.commands.call import CONFIG_FILES, DATASET, JSON, MODEL, Call, Command, config_files, write_result


def run(call: Call) -> None:
    """Train and test one model."""
    from recbole_sid.distributed.launch import launch
    from recbole_sid.quick_start import is_launcher
    from recbole_sid.settings.run import LaunchSettings

    config = _config(call)
    if is_launcher(config):
        launch(_run_here, (call,), LaunchSettings.of(config).processes())
    else:
        _run_here(call)


def _config(call: Call) -> Any:
    from recbole_sid.config import Config

    return Config(call.options.get("model"), call.options.get("dataset"), config_files(call), call.overrides)


def _run_here(call: Call) -> None:
    """Train and test in this process, perhaps one of several; the main one says and writes what came of it."""
    from recbole_sid.distributed.group import current_group
    from recbole_sid.evaluation.tables import markdown_table
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
    if not current_group().is_main:
        return
    write_result(call, config, [row])
    print(f"\n{markdown_table([row])}\n\nWritten: {result.trainer.saved_model_file}")


RUN = Command(
    "run",
    "train and test one model",
    run,
    (MODEL, DATASET, CONFIG_FILES, JSON),
    "recbole-sid run --model=SIDMLP --dataset=ml-100k",
    in_group=True,
)
