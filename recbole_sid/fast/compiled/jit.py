"""How the loops of this folder are compiled, and kept compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

# Reassociation lets sums use vector lanes; NaN and infinity keep their meaning.
_compile = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "arcp"})

# Inlined where called: a call passes arrays with reference counts, which costs more than the short body.
inlined = numba.njit(nogil=True, error_model="numpy", inline="always")


def _hash_of_sources() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


_SOURCES = _hash_of_sources()


def jit(function: Callable[..., Any]) -> Any:
    """Compile `function` on its first call, and keep it on disk for as long as no file of this folder changes.

    Numba by itself looks at the function's own file only, so that it would go on with an old version of what the
    function calls elsewhere.
    """
    compiled: Any = _compile(function)
    kept = compiled._cache._cache_file
    kept._source_stamp = (kept._source_stamp, _SOURCES)
    return compiled
