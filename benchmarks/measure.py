"""Times of contenders that take turns, peak memory in a process of its own, and the machine."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from bilevel import Contender

PAUSE = 0.1  # seconds before a turn: OpenMP's and OpenBLAS's threads spin for some 20 ms


@dataclass(frozen=True)
class Row:
    """One contender. median: seconds per round. start, compile, memory: as `Fresh`. error: of its
    first hypergradient against that of the first contender, relative; truth: against that at the
    solution itself (reference.py). loss: of the upper level in the end.
    """

    name: str
    median: float
    spread: float
    start: float | None
    compile: float | None
    memory: float | None
    error: float
    truth: float
    loss: float
    note: str = ""


def take_turns(
    contenders: Mapping[str, Contender], repeats: int, least: float = 0.1
) -> dict[str, list[float]]:
    """Seconds per round of each, `repeats` times, one after the other; each turn lasts at least
    `least` seconds, and begins when threads of the last library no longer spin.
    """
    rounds = {}
    for name, contender in contenders.items():
        contender.round()
        began = time.perf_counter()
        contender.round()
        rounds[name] = max(1, round(least / max(time.perf_counter() - began, 1e-6)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, contender in contenders.items():
            time.sleep(PAUSE)
            began = time.perf_counter()
            for _ in range(rounds[name]):
                contender.round()
            times[name].append((time.perf_counter() - began) / rounds[name])
    return times


def spread(values: list[float]) -> float:
    """Half the range between the quartiles, relative to the median."""
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / middle


def resident() -> float:
    """Peak resident memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage also counts what the parent held when it forked
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@dataclass(frozen=True)
class Fresh:
    """Of a process of its own. start: seconds until the contender is made, its imports beside torch
    included. compile: seconds by which its first round is longer than a later one. memory: peak MiB
    above torch and the data.
    """

    start: float
    compile: float
    memory: float


def fresh(problem: str, name: str, threads: int) -> Fresh | None:
    """Measured in a new process; None where that fails."""
    script = Path(__file__).with_name("run.py")
    command = [sys.executable, str(script), "--fresh", problem, name, "--threads", str(threads)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return Fresh(**json.loads(found.stdout.splitlines()[-1]))
    except (IndexError, TypeError, ValueError):
        return None


def machine(threads: int) -> dict[str, object]:
    """What the numbers depend on."""
    from importlib import metadata

    import torch

    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    names = ("torch", "numpy", "betty-ml", "torchopt", "higher", "jax", "jaxopt")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "interop": torch.get_num_interop_threads(),
        **versions,
    }


def as_json(rows: Mapping[str, list[Row]], about: Mapping[str, object]) -> str:
    tables = {name: [asdict(row) for row in found] for name, found in rows.items()}
    return json.dumps({"machine": about, "results": tables}, indent=2) + "\n"
