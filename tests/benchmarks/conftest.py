"""Makes the study's modules importable."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "study"))
torch.set_num_threads(1)
