"""Starting processes that import this package anew and run a function of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from recbole_sid.util.attributes import attributes_set


@contextmanager
def without_callers_script() -> Iterator[None]:
    """Let processes that are spawned in the block not run the script that is running.

    multiprocessing imports that script in each of them, for what it may define. What runs in ours is of this package,
    and a script without ``if __name__ == "__main__":`` would start itself again.
    """
    main = sys.modules["__main__"]
    with attributes_set(main, {name: None for name in ("__spec__", "__file__") if hasattr(main, name)}):
        yield
