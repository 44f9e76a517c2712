"""Time and memory of tokenizing a large catalogue: ``python benchmarks/tokenize_scale.py --items=1000000``.

Random features around random centres; residual k-means, the collision rule and the trie, as `recbole-sid tokenize`
does after computing features. Memory is the peak of the process above what it held once the features were made.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np

from recbole_sid.registry import COLLISIONS, resolve
from recbole_sid.semantic_ids.artefact import SemanticIDs
from recbole_sid.tokenizer.base import reconstruction_error
from recbole_sid.tokenizer.collisions import CollisionContext, summary
from recbole_sid.tokenizer.rq_kmeans import ResidualKMeans

_ROWS = 65536  # made at a time


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--codebook_sizes", type=int, nargs="+", default=[256, 256, 256, 256])
    parser.add_argument("--collision", default="rank", choices=sorted(COLLISIONS))
    parser.add_argument("--seed", type=int, default=2020)
    options = parser.parse_args()

    features = synthetic_features(options.items, options.dim, options.seed)
    before = peak_mb()
    seconds: dict[str, float] = {}
    tokenizer = ResidualKMeans(options.codebook_sizes, options.seed)
    timed(seconds, "fit", lambda: tokenizer.fit(features, np.arange(options.items)))
    raw = timed(seconds, "encode", lambda: tokenizer.encode(features))
    rule = resolve(COLLISIONS, options.collision, "collision rule")
    context = CollisionContext(None, features, tokenizer)
    codes, sizes = timed(seconds, "collisions", lambda: rule(raw, tokenizer.codebook_sizes, context))
    tokens = np.char.add("item", np.arange(options.items).astype(str))
    semantic_ids = timed(seconds, "check", lambda: SemanticIDs(codes, sizes, tokens))
    trie = timed(seconds, "trie", lambda: semantic_ids.trie)
    result = {
        "items": options.items,
        "dim": options.dim,
        "codebook_sizes": list(sizes),
        "features_mb": round(features.nbytes / 1e6),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "total_s": round(sum(seconds.values()), 2),
        "peak_mb_above_features": round(peak_mb() - before),
        "trie_mb": round(trie.n_bytes / 1e6, 1),
        **summary(raw),
        "reconstruction_error": reconstruction_error(tokenizer, features, codes),
    }
    print(json.dumps(result, indent=2))


def synthetic_features(n_items: int, dim: int, seed: int) -> np.ndarray:
    """Return float32 [n_items, dim]: items spread around centres that are spread around other centres."""
    rng = np.random.default_rng(seed)
    coarse = 2 * rng.normal(size=(32, dim)).astype(np.float32)
    fine = rng.normal(size=(4096, dim)).astype(np.float32)
    features = np.empty((n_items, dim), dtype=np.float32)
    for first in range(0, n_items, _ROWS):  # so that the peak before tokenizing is that of the features alone
        rows = features[first : first + _ROWS]
        rows[:] = coarse[rng.integers(32, size=len(rows))] + fine[rng.integers(4096, size=len(rows))]
        rows += rng.normal(size=rows.shape).astype(np.float32)
    return features


def timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    """Return what `work` returns and note how long it took."""
    started = perf_counter()
    result = work()
    seconds[name] = perf_counter() - started
    return result


def peak_mb() -> float:
    """Return the largest memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
