"""Memory that was freed goes back to the system."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import pytest
import torch

from recbole_sid.util.hardware import release_free_memory


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="only glibc keeps what is freed"
)
def test_holes_in_the_heap_are_given_back() -> None:
    kept = [torch.ones(25_000) for _ in range(2000)]  # 100 KB each, too little for pages of their own
    before = resident_mb()
    del kept[::2]
    held = resident_mb()
    assert before - held < 50  # of 100 freed
    release_free_memory()
    assert before - resident_mb() > 75
    assert len(kept) == 1000
