"""Peak memory of a hypergradient beside that of plain training, each in a fresh process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PLAIN = """
import sys, torch
from bettyc.runtime import run  # what is imported is in neither figure
width, rows = int(sys.argv[1]), 4
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Linear(8, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(),
    torch.nn.Linear(width, 4),
)
x, y = torch.randn(rows, 8), torch.randint(0, 4, (rows,))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
def work():
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
"""
OURS = '''
import sys, torch
import bettyc.api as bettyc
width, rows = int(sys.argv[1]), 4
torch.manual_seed(0)
x, y = torch.randn(2 * rows, 8), torch.randint(0, 4, (2 * rows,))
run = bettyc.loads("""
mlo 0.1
dim n, C = 4
data all : { x: real[n, 8], y: int<C>[n] } from npz("given.npz")
split all into train = 0.5, val = 0.5
level student {
  module net = mlp([8, WIDTH, WIDTH, C])
  let losses = xent(net(train.x), train.y)
  minimize mean(weigher.v(detach(losses)[:, new])[:, 0] * losses)
  optimizer = sgd(lr = 0.1)
  hypergrad = finite_diff
}
level weigher {
  module v = mlp([1, 5, 1], out = sigmoid)
  minimize mean(xent(student*.net(val.x), val.y))
  optimizer = sgd(lr = 0.1)
}
run { steps = 4 }
""".replace("WIDTH", str(width))).compile(data={"all": {"x": x, "y": y}}).start(seed=0)
def work():
    for _ in range(3):
        run.step()
'''
# Only what the loop holds above the variables is of interest: they are there before it in both.
COUNT = """
def peak():
    from pathlib import Path
    line = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")]
    return int(line[0].split()[1]) * 1024
def resident():
    from pathlib import Path
    line = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmRSS")]
    return int(line[0].split()[1]) * 1024
Path = __import__("pathlib").Path
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
before = resident()
work()
print(peak() - before)
"""


def grown(program: str, width: int) -> int:
    """Bytes that three iterations add at their peak."""
    done = subprocess.run(
        [sys.executable, "-c", "import torch; torch.set_num_threads(1)" + program + COUNT,
         str(width)],
        capture_output=True, text=True, check=True,
        env={"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed goes back at once
    )  # fmt: skip
    return int(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="counts as Linux does")
@pytest.mark.parametrize(
    "width", [1400, pytest.param(3160, marks=pytest.mark.slow)], ids=["2M", "10M"]
)
def test_a_finite_difference_takes_one_copy_of_the_variables(width):
    """At most 1.15 times plain training plus a copy."""
    size = 4 * (width * width + 14 * width + 4)
    training = size + grown(PLAIN, width)
    found = size + grown(OURS, width)
    assert found <= 1.15 * (training + size), (found / size, training / size)
