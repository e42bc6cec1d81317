"""Tests of the calculus use the table of cases of the operator registry."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "ops"))
torch.set_num_threads(1)
