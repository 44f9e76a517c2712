"""``recbole-sid bench``."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from recbole_sid.commands.call import JSON, Call, Command, Option, result_object, write_result
from recbole_sid.util.files import write_json, write_text
from recbole_sid.util.values import parse_value


def bench(call: Call) -> None:
    """Time every row of the benchmark and write table, figure and JSON."""
    from recbole_sid.bench.document import document, figure, summary
    from recbole_sid.bench.options import bench_options
    from recbole_sid.bench.run import run_bench

    started = perf_counter()
    options = bench_options(call.overrides)
    measured = run_bench(options)
    folder = Path(call.options.get("output", Path("saved") / "bench"))
    words = [f"--{key}={value}".replace("'", "").replace(", ", ",") for key, value in call.overrides.items()]
    settings = {"seed": options.seed, "device": options.device}
    details = {**measured.facts, "skipped": measured.skipped}
    write_text(folder / "bench.md", document(measured, " ".join(["recbole-sid bench", *words])))
    write_json(folder / "bench.json", result_object(call, settings, measured.rows, details))
    figure(measured, folder / "bench.png")
    write_result(call, settings, measured.rows, details)
    print(f"\n{summary(measured)}\n\nDone in {perf_counter() - started:.0f} s. Written: {folder}/bench.md, .json, .png")


def _own(name: str, text: str, default: object, metavar: str = "VALUE", alone: str | None = None) -> Option:
    return Option(name, text, parse_value, default, metavar, alone, key=True)


BENCH = Command(
    "bench",
    "time the decoders",
    bench,
    (
        _own("quick", "a part of it, in under two minutes", False, alone="True"),
        _own("batches", "users a batch", "[1,32,256]", "LIST"),
        _own("threads", "numbers, or all", "[1,all]", "LIST"),
        _own("histories", "natural or full lengths", "[natural,full]", "LIST"),
        _own("items", "of the synthetic catalogue", 25_000, "N"),
        _own("rows", "what to time, as [sidmlp,sasrec]; by default everything", None, "LIST"),
        _own("beam_size", "prefixes kept, and items returned", 50, "N"),
        _own("rounds", "of a setting, at most", 40, "N"),
        _own("seconds", "of a setting, for its rounds", 60, "N"),
        _own("device", "auto, cpu or cuda", "auto", "NAME"),
        _own("seed", "of codes, weights and histories", 2020, "N"),
        _own("checkpoint", "a trained model in place of random ones", None, "FILE"),
        JSON,
        Option("output", "folder for table and picture", default="saved/bench", metavar="FOLDER", output="folder"),
    ),
    "recbole-sid bench --quick",
    keys=False,
)
