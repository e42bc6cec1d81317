"""The script for a GPU runs from start to end where there is none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_the_script_checks_and_times_everything_in_the_interpreter():
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--interpret"], capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = done.stdout[done.stdout.rindex("the interpreter") :].splitlines()[2:]
    kinds = ("neumann_update", "perturb", "adamw", "cg_update", "X^T phi", "weighted_loss",
             "cg, 50 steps", "cg_small", "cg_batched", "update, 3 steps, sgd, cg",
             "update, 3 steps, adam, unroll")  # fmt: skip
    for kind in kinds:
        assert any(line.startswith(kind) for line in table), kind
    assert sum("(no graph: no GPU)" in line for line in table) == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_it_says_so():
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode != 0
    assert "no CUDA device; --interpret runs the script" in done.stderr
