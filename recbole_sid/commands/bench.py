"""``recbole-sid bench``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from recbole_sid.commands.call import Call, result_object, write_result
from recbole_sid.files import write_json, write_text


def bench(call: Call) -> None:
    """Time every row of the benchmark and write table, figure and JSON."""
    from recbole_sid.bench.options import bench_options
    from recbole_sid.bench.report import figure, report, summary
    from recbole_sid.bench.run import run_bench

    started = perf_counter()
    options = bench_options(call.overrides)
    outcome = run_bench(options)
    folder = Path(call.options.get("output", Path("saved") / "bench"))
    words = [f"--{key}={value}".replace("'", "").replace(", ", ",") for key, value in call.overrides.items()]
    settings = {"seed": options.seed, "device": options.device}
    details = {**outcome.facts, "skipped": outcome.skipped}
    write_text(folder / "bench.md", report(outcome, " ".join(["recbole-sid bench", *words])))
    write_json(folder / "bench.json", result_object(call, settings, outcome.rows, details))
    figure(outcome, folder / "bench.png")
    write_result(call, settings, outcome.rows, details)
    print(f"\n{summary(outcome)}\n\nDone in {perf_counter() - started:.0f} s. Written: {folder}/bench.md, .json, .png")
