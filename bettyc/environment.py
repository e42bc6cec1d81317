"""What bettyc runs on: its own version, Python, the platform, the packages that it uses."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import bettyc

PACKAGES = (
    "torch",
    "triton",
    "lark",
    "networkx",
    "numpy",
    "safetensors",
    "scikit-learn",
    "click",
    "rich",
)


def environment() -> dict[str, Any]:
    """Versions and platform; imports none of the packages."""
    from bettyc.grammar.parse import LANGUAGE
    from bettyc.plan import FORMAT

    return {
        "bettyc": bettyc.__version__,
        "language": ".".join(map(str, LANGUAGE)),
        "plan_format": FORMAT,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: installed(name) for name in PACKAGES},
    }


def of_run(device: str) -> dict[str, Any]:
    """The same with what a run computes on and with; `device` is where its tensors live."""
    import torch

    found = {**environment(), "device": device, "cpus": os.cpu_count(),
             "threads": torch.get_num_threads()}  # fmt: skip
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def installed(name: str) -> str | None:
    """The version, read off the package's metadata: importing it would take seconds."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
