"""``recbole-sid quick-start``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from recbole_sid.commands.call import CONFIG_FILES, JSON, Call, Command, Option, config_files, write_result
from recbole_sid.errors import InputError
from recbole_sid.util.files import write_text

_ANNOUNCEMENT = (
    "The quick start: trains Pop, EASE, TransitionMemory, SASRec, TIGER and its students SID-MLP and SID-MLP++ on "
    "ml-100k and compares them in one table; 6 to 7 minutes on two CPU cores. Ctrl-C ends it; recbole-sid --help shows "
    "what else there is."
)


def quick_start(call: Call) -> None:
    """Run the main job and write its table, figure and JSON."""
    from recbole_sid.comparison.main_job import QUICK_START as PLAN
    from recbole_sid.comparison.main_job import run_main_job
    from recbole_sid.config import Config
    from recbole_sid.evaluation.figures import accuracy_speed_figure
    from recbole_sid.evaluation.tables import markdown_table

    files = config_files(call)
    if len(files) > 1:
        raise InputError("quick-start takes one file in --config_files.")
    started = perf_counter()
    if not files:
        print(_ANNOUNCEMENT, flush=True)
    common: dict[str, Any] = {
        key: call.overrides[key] for key in ("seed", "use_gpu", "gpu_id", "checkpoint_dir") if key in call.overrides
    }
    config = Config("TIGER", "ml-100k", config_dict=common)
    rows = run_main_job(files[0] if files else PLAN, call.overrides)
    table = markdown_table(rows)
    folder = Path(call.options.get("output", Path(config["checkpoint_dir"]) / "quick_start"))
    write_text(folder / "table.md", table + "\n")
    accuracy_speed_figure(rows, folder / "accuracy_speed.png")
    write_result(call, config, rows)
    print(
        f"\n{table}\n\nDone in {perf_counter() - started:.0f} s. "
        f"Written: {folder}/table.md, accuracy_speed.png, .pdf, .svg"
    )


QUICK_START = Command(
    "quick-start",
    "baselines, TIGER, SID-MLP and SID-MLP++ on ml-100k, compared in one table: 6 to 7 minutes",
    quick_start,
    (CONFIG_FILES, JSON, Option("output", "folder for table and picture", metavar="FOLDER", output="folder")),
    "recbole-sid quick-start --json=result.json",
)
