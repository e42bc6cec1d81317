"""Makes `tests/problems.py` and `toys.py` importable, and keeps them on one thread."""

import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
torch.set_num_threads(1)
