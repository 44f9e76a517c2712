"""How the loops of this folder are compiled, and kept compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache
from numba.core.registry import cpu_target

# Reassociation lets sums use vector lanes; NaN and infinity keep their meaning.
_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}
_compile = numba.njit(cache=True, **_OPTIONS)

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
    try:
        compiled: Any = _compile(function)
    except RuntimeError:  # there is no folder to keep it in
        return numba.njit(**_OPTIONS)(function)
    kept = compiled._cache._cache_file
    kept._source_stamp = _SOURCES  # not the files' times: a copy of an installation keeps what it has compiled
    return compiled


def is_kept(compiled: Any) -> bool:
    """Say whether a function was compiled before, for this processor and from these sources, and is still on disk."""
    if not isinstance(compiled._cache, FunctionCache):
        return False
    processor = cpu_target.target_context.codegen().magic_tuple()
    return any(key[1] == processor for key in compiled._cache._cache_file._load_index())


def place_of(compiled: Any) -> str | None:
    """Return the folder in which a function is kept; None if there is none."""
    return str(compiled._cache.cache_path) if isinstance(compiled._cache, FunctionCache) else None
