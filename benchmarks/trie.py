"""Building the trie of valid semantic IDs: time, memory, and the peak while building.

python benchmarks/trie.py [--items 25000 1000000 10000000]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial

import torch
from torch.utils.benchmark import Timer

from recbole_sid.bench.synthetic_catalogue import synthetic_semantic_ids
from recbole_sid.bench.timing import peak_megabytes
from recbole_sid.decoding.trie import Trie


def build(n_items: int) -> None:
    """Print one Markdown row."""
    semantic_ids = synthetic_semantic_ids(n_items, seed=0)
    torch.sort(torch.arange(1000))  # libraries load
    make = partial(Trie, semantic_ids.codes, semantic_ids.codebook_sizes)
    trie = make()
    seconds = Timer("make()", globals={"make": make}).blocked_autorange().median
    growth = peak_megabytes(make, torch.device("cpu"))
    nodes = " / ".join(f"{trie.n_nodes(depth + 1):,}" for depth in range(trie.n_levels))
    print(
        f"| {n_items:,} | {nodes} | {seconds:.2f} | {trie.n_bytes / 1e6:.1f} | {growth:.0f} |",
        flush=True,
    )


def main() -> None:
    """Print a Markdown table; each size in a process of its own, for its own peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[25_000, 1_000_000, 10_000_000])
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        build(options.one)
        return
    print("| items | prefixes per depth | seconds | trie MB | growth of the peak while building, MB |")
    print("|---:|---|---:|---:|---:|", flush=True)
    for n_items in options.items:
        subprocess.run([sys.executable, __file__, "--one", str(n_items)], check=True)


if __name__ == "__main__":
    main()
