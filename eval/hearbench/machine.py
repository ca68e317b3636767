"""The machine and its software, as results and reports record them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("hear_axlstm", "heareval", "pytorch-lightning", "torch", "numpy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that scores depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware() -> dict[str, Any]:
    """Architecture, system, number of CPUs, and the GPU's name or None."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    machine = {"machine": platform.machine(), "system": platform.system()}
    return {**machine, "cpus": os.cpu_count(), "gpu": gpu}


def processor() -> str:
    """The processor's name on Linux, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
