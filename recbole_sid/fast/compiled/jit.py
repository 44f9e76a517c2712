"""How the loops of this folder are compiled, and kept compiled."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile
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


# Where functions are kept, if it can be written.
_BESIDE = Path(__file__).parent / "__pycache__"


class _AlsoBeside(IndexDataCacheFile):
    """Where a function is kept, if not beside the sources; what was kept there before is read all the same.

    So an image whose installation has compiled all is quick for users who may not write to it.
    """

    def __init__(self, kept: IndexDataCacheFile) -> None:
        name = kept._index_name.removesuffix(".nbi")
        super().__init__(kept._cache_path, name, _SOURCES)
        self._beside = IndexDataCacheFile(str(_BESIDE), name, _SOURCES)

    def load(self, key: Any) -> Any:
        found = super().load(key)
        return self._beside.load(key) if found is None else found

    def _load_all(self) -> dict[Any, str]:
        return {**self._beside._load_index(), **self._load_index()}


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
    can_write, can_read = (os.access(_BESIDE, right | os.X_OK) for right in (os.W_OK, os.R_OK))
    if can_read and not can_write:
        compiled._cache._cache_file = _AlsoBeside(kept)
    return compiled


def is_kept(compiled: Any) -> bool:
    """Say whether a function was compiled before, for this processor and from these sources, and is still on disk."""
    if not isinstance(compiled._cache, FunctionCache):
        return False
    processor = cpu_target.target_context.codegen().magic_tuple()
    kept = compiled._cache._cache_file
    signatures = kept._load_all() if isinstance(kept, _AlsoBeside) else kept._load_index()
    return any(key[1] == processor for key in signatures)


def place_of(compiled: Any) -> str | None:
    """Return the folder in which a function is kept; None if there is none."""
    return str(compiled._cache.cache_path) if isinstance(compiled._cache, FunctionCache) else None
