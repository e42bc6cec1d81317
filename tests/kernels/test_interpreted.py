"""The Triton kernels under Triton's interpreter, in a process of their own.

Triton reads TRITON_INTERPRET when it is imported, so one process either compiles or interprets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is that process")
def test_every_kernel_in_the_interpreter():
    folder = Path(__file__).parent
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(folder),
        "-q",
        "-x",
        "-k",
        "interpret",
        "-p",
        "no:cacheprovider",
    ]
    options = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""}
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")
    } | options
    done = subprocess.run(
        command,
        cwd=folder.parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
