"""The data that a finished run was evaluated on, as a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_sid.config import Config
from recbole_sid.evaluation.runs import RunResult


def data_config(result: RunResult, files: Sequence[str] = (), overrides: Mapping[str, Any] | None = None) -> Config:
    """Return a sequential model's configuration of the data and the split that a run recorded.

    Args:
        result: of the run.
        files: configuration files.
        overrides: keys that are not as in the run.
    """
    sections = Config("SASRec", result["dataset"]).parameters
    keys = {"data_path", "checkpoint_dir", "use_gpu", *sections["Dataset"], *sections["Evaluation"]}
    settings = {key: value for key, value in result["settings"].items() if key in keys}
    if settings.get("use_gpu"):  # the default: to give it would be to ask for a GPU here
        del settings["use_gpu"]
    return Config("SASRec", result["dataset"], list(files), {**settings, **(overrides or {})})
