"""What a figure depends on beside the code: the processor, the memory, the system, the versions of packages."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil
import torch

_TIMED = ("torch", "transformers", "numba")
_PACKAGES = ("recbole", "torch", "numpy", "pandas", "scipy", "faiss-cpu", "numba", "ray", "transformers")


def machine(device: torch.device | str) -> dict[str, Any]:
    """Return processor, memory_gb, system and versions (of Python and packages) of where `device` is; JSON types.

    Nothing in it names the machine.
    """
    return {
        "processor": processor(torch.device(device)),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(_PACKAGES),
    }


def processor(device: torch.device) -> str:
    """Return the name of the processor that `device` is."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            name = next((line.split(":")[1].strip() for line in stream if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}, {psutil.cpu_count()} threads"


def versions(packages: Sequence[str] = _TIMED) -> dict[str, str]:
    """Return the versions of Python and of `packages`, those that are not installed aside; by default of what times
    depend on.
    """
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
