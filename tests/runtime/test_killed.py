"""A run that is killed at any moment, in the middle of writing a checkpoint too, ends with the bits
of one that is not.

The program has everything that a checkpoint has to hold: random masks, samplers in the middle of an
epoch, random augmentation in Python, Adam, a schedule, a scaled fp16 loss, a warm solver, averages.
Checkpoints are written after every update, in the middle of periods.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toys import classification, start

from bettyc.runtime.execute import Stopped
from bettyc.runtime.run import Run

PROGRAM = """
mlo 0.1
dim n, d, C = 2
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4 with (seed = 0)
level fit {
  var W : real[d, C] = gaussian(std = 0.1)
  draw b from train(batch = 8, shuffle = true)
  let loss = dropout(xent(b.x @ W, b.y), p = 0.2)
  minimize mean(sigmoid(tune.score[b.index]) * loss) + 0.01 * sumsq(W)
  optimizer = adam(lr = 0.1)
  lr_schedule = cosine
  precision = fp16
  steps = 5
  average = ema(0.9)
  hypergrad = cg(iters = 3, damping = 0.1, warm = true)
}
level tune {
  var score : real[36] = zeros
  draw v from val(batch = 7, weights = balanced)
  minimize mean(xent(v.x @ fit*.W, v.y))
  optimizer = adam(lr = 0.1)
  lr_schedule = plateau(patience = 1)
}
run { steps = STEPS }
"""


class Noisy(torch.utils.data.Dataset):
    """Rows with random augmentation."""

    def __init__(self) -> None:
        self.columns = classification()

    def __len__(self) -> int:
        return 60

    def __getitem__(self, i: int):
        x = self.columns["x"][i]
        return {"x": x + 0.1 * torch.randn(x.shape, dtype=x.dtype) * random.random(),
                "y": self.columns["y"][i]}  # fmt: skip


def begin(steps: int) -> Run:
    return start(PROGRAM.replace("STEPS", str(steps)), {"all": Noisy()})


def work(checkpoint: Path, result: Path, steps: int) -> None:
    """Run from the last checkpoint to the end, one checkpoint per update of any level."""
    run = begin(steps)
    if checkpoint.exists():
        run.load(checkpoint)
    while not run.finished:
        run.interrupt()
        try:
            run.to_end()
        except Stopped:
            run.save(checkpoint)
    torch.save(final(run), result)


def final(run: Run) -> list[torch.Tensor]:
    return [run["fit"].W, run.averaged("fit").W, run["tune"].score]


def expected(steps: int) -> list[torch.Tensor]:
    """An uninterrupted run."""
    run = begin(steps)
    run.to_end()
    return final(run)


def killed(
    launch: Callable[[], Callable[[], None]], kills: int, checkpoint: Path, span: float
) -> int:
    """Kill so many children at random moments of their first `span` seconds; how many had left a
    checkpoint by then. launch starts one and gives the function that kills it.
    """
    rng = random.Random(0)
    seen = 0
    for _ in range(kills):
        kill = launch()
        time.sleep(rng.uniform(0.0, span))
        kill()
        seen += checkpoint.exists()
    return seen


def test_killed_a_few_times(tmp_path):
    """Forked children, which need no imports: quick enough for every run of the tests."""
    checkpoint, result, steps = tmp_path / "c", tmp_path / "r", 8
    began = time.perf_counter()
    whole = expected(steps)
    span = time.perf_counter() - began  # a busy machine is slow for the children, too
    fork = multiprocessing.get_context("fork")

    def launch() -> Callable[[], None]:
        child = fork.Process(target=work, args=(checkpoint, result, steps))
        child.start()

        def kill() -> None:
            child.kill()
            child.join()

        return kill

    seen = killed(launch, 5, checkpoint, span)
    work(checkpoint, result, steps)
    found = torch.load(result, weights_only=True)

    assert seen >= 1
    assert all(torch.equal(a, b) for a, b in zip(whole, found, strict=True))
    # what a killed child was writing is neither taken for a checkpoint nor left behind
    assert {p.name for p in tmp_path.iterdir()} == {"c", "r"}


KILLS = int(os.environ.get("BETTYC_KILLS", "50"))
CHILD = """
import sys
sys.path[:0] = [SUITE]
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_killed import work
print("ready", flush=True)
work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
"""


@pytest.mark.slow
def test_killed_at_fifty_random_moments(tmp_path):
    """Processes of their own, as users have them."""
    checkpoint, result, steps = tmp_path / "c", tmp_path / "r", 300
    script = tmp_path / "child.py"
    script.write_text(CHILD.replace("SUITE", repr(str(Path(__file__).parent))))
    arguments = [sys.executable, str(script), str(checkpoint), str(result), str(steps)]
    codes: list[int] = []

    def launch() -> Callable[[], None]:
        child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"

        def kill() -> None:
            child.send_signal(signal.SIGKILL)
            with child:
                codes.append(child.wait())

        return kill

    killed(launch, KILLS, checkpoint, 0.12)
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    found = torch.load(result, weights_only=True)

    assert codes.count(-signal.SIGKILL) >= 0.9 * KILLS
    assert all(torch.equal(a, b) for a, b in zip(expected(steps), found, strict=True))
