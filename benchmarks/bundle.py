"""What loading a bundle takes: seconds and memory of a fresh process, of one that is there or of a made-up catalogue.

    python benchmarks/bundle.py --bundle=DIR                  # one that export-model wrote
    python benchmarks/bundle.py --bundle=DIR --items=1000000  # its model, with so many items of random codes
    python benchmarks/bundle.py --items=1000000 --dim=128     # no model: an item table of so many rows

Each figure is the median of several fresh processes; files are in the system's cache after the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from recbole_sid.exporting.card import model_card
from recbole_sid.exporting.extended import grown_codes
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.serving.bundle import HISTORIES, ITEMS, WEIGHTS, Bundle
from recbole_sid.serving.bundle_files import write_bundle
from recbole_sid.serving.catalogue import Catalogue
from recbole_sid.serving.histories import KnownUsers

_LOAD = """
import json, re, sys, time
started = time.perf_counter()
from recbole_sid.serving.bundle import Bundle
imported = time.perf_counter()
bundle = Bundle.load(sys.argv[1], verify=sys.argv[2] == "True")
checked = time.perf_counter()
catalogue = bundle.catalogue
known = bundle.known_users.n_users if "histories.safetensors" in bundle else 0
items = time.perf_counter()
if sys.argv[3] == "True":
    engine = bundle.engine()
else:
    bundle.arrays("weights.safetensors")
built = time.perf_counter()
names = catalogue.tokens(catalogue.popular[:1000])
asked = time.perf_counter()
assert (catalogue.numbers(names) == catalogue.popular[:1000]).all()
found = time.perf_counter()
status = open("/proc/self/status").read()  # getrusage would count what the parent had
print(json.dumps({
    "import_s": imported - started, "map_and_hash_s": checked - imported, "items_and_users_s": items - checked,
    "engine_s": built - items, "all_s": built - started, "look_up_us": (found - asked) * 1e3,
    "cpu_s": time.process_time(), "peak_mb": int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1024,
}))
"""


def made_up(path: Path, n_items: int, dim: int, n_users: int) -> None:
    """Write a bundle with an item table, tokens like Amazon's, titles, and histories of eight items."""
    rng = np.random.default_rng(0)
    tokens = [f"B{number:09X}" for number in rng.permutation(4 * n_items)[:n_items]]
    titles = [f"The {number:,}th thing of this catalogue" for number in range(n_items)]
    catalogue = Catalogue.of(tokens, rng.zipf(1.5, n_items).clip(max=10**6), {"title": titles})
    items = rng.integers(1, n_items + 1, 8 * n_users)
    users = KnownUsers.of([f"user{number}" for number in range(n_users)], np.arange(0, 8 * n_users + 1, 8), items)
    described = {
        "model": "none",
        "engine": "none",
        "settings": {},
        "n_items": n_items + 1,
        "fields": ["title"],
        "sizes": {},
        "fingerprints": {},
        "metrics": {},
        "protocol": {},
    }
    table = rng.standard_normal((n_items + 1, dim), dtype=np.float32)
    arrays = {WEIGHTS: {"table": table}, ITEMS: catalogue.arrays(), HISTORIES: users.arrays()}
    write_bundle(path, described, arrays, {}, model_card)


def grown(path: Path, bundle: Bundle, n_items: int, n_users: int) -> None:
    """Write a bundle of the same model with `n_items` items of random codes, and with titles and histories."""
    rng = np.random.default_rng(0)
    sizes = bundle.manifest["settings"]["codebook_sizes"]
    tokens = np.array([f"B{number:09X}" for number in rng.permutation(4 * n_items)[:n_items]])
    codes = np.stack([rng.integers(size, size=n_items) for size in sizes], axis=1)
    arrays = grown_codes(bundle.arrays(WEIGHTS), SemanticIDs(codes, tuple(sizes), tokens), tokens)
    catalogue = Catalogue.of(tokens, rng.zipf(1.5, n_items).clip(max=10**6), {"title": [f"Item {t}" for t in tokens]})
    items = rng.integers(1, n_items + 1, 8 * n_users)
    users = KnownUsers.of([f"user{number}" for number in range(n_users)], np.arange(0, 8 * n_users + 1, 8), items)
    settings = {**bundle.manifest["settings"], "n_items": n_items + 1}
    described = {**bundle.manifest, "settings": settings, "n_items": n_items + 1, "fields": ["title"]}
    files = {WEIGHTS: arrays, ITEMS: catalogue.arrays(), HISTORIES: users.arrays()}
    write_bundle(path, described, files, {}, model_card)


def measured(path: Path, verify: bool, with_engine: bool, repeats: int) -> dict[str, float]:
    """Return the medians over fresh processes."""
    command = [sys.executable, "-c", _LOAD, str(path), str(verify), str(with_engine)]
    runs = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout) for _ in range(repeats)
    ]
    return {key: round(statistics.median(run[key] for run in runs), 3) for key in runs[0]}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--items", type=int)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, started = Path(folder, "bundle"), perf_counter()
        if options.bundle is None:
            made_up(path, options.items or 1_000_000, options.dim, options.users)
        elif options.items:
            grown(path, Bundle.load(options.bundle), options.items, options.users)
        else:
            path = options.bundle
        print(f"made in {perf_counter() - started:.1f} s")
        size = sum(file.stat().st_size for file in path.iterdir()) / 2**20
        print(f"{path.name}: {size:,.1f} MiB")
        for verify in (True, False):
            found = measured(path, verify, options.bundle is not None, options.repeats)
            print(json.dumps({"verify": verify, **found}))


if __name__ == "__main__":
    main()
