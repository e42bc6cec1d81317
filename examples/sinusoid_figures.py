"""Five algorithms of meta-learning on sine waves, judged on waves that no training has seen.

    python examples/sinusoid_figures.py                   all of them
    python examples/sinusoid_figures.py anil_sinusoid     some; the figures of the others stay

Trains maml_sinusoid.mlo (MAML, and its profiles first_order and imaml), anil_sinusoid.mlo and
reptile_sinusoid.mlo from the seeds 0 to 2, and judges what they start from in plain torch: on 1000
other waves, ten points each to adapt to, by the steps of that program, and ten to be judged on.
`error` is the mean squared error after them, `error_unadapted` without; "before" is a network that
nothing has been learned about. `error_pooled` is what is usual without meta-learning: one network
trained on all points of as many waves, which then takes the same steps. Writes figures/NAME.json.
One thread.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import figures
import torch
from sinusoids import Sinusoids, Task
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import mse_loss

import bettyc
from bettyc.runtime.run import Run

HERE = Path(__file__).parent
SEEDS = 3
# The program and its profile, by the name of the figures.
PROGRAMS: dict[str, tuple[str, str | None]] = {
    "maml_sinusoid": ("maml_sinusoid", None),
    "maml_sinusoid_first_order": ("maml_sinusoid", "first_order"),
    "maml_sinusoid_imaml": ("maml_sinusoid", "imaml"),
    "anil_sinusoid": ("anil_sinusoid", None),
    "reptile_sinusoid": ("reptile_sinusoid", None),
}


class Start:
    """Networks in a row, of which the one named `adapted` takes `steps` on a wave: gradient
    descent at the rate `lr` on the error plus near/2 |w - start|^2, with gradients scaled down to
    the norm `clip`.
    """

    def __init__(
        self,
        layers: dict[str, nn.Module],
        adapted: str,
        steps: int,
        lr: float,
        near: float = 0.0,
        clip: float = math.inf,
    ) -> None:
        self.layers, self.adapted = layers, adapted
        self.steps, self.lr, self.near, self.clip = steps, lr, near, clip

    def errors(self, task: Task) -> tuple[float, float]:
        """The mean squared errors on the queries: before and after the steps."""
        start = {n: p.detach().clone() for n, p in self.layers[self.adapted].named_parameters()}
        before = self._error(start, task["query"]).item()
        w = start
        for _ in range(self.steps):
            w = {n: p.requires_grad_() for n, p in w.items()}
            found = torch.autograd.grad(self._error(w, task["support"]), list(w.values()))
            with torch.no_grad():
                pairs = zip(w.items(), found, strict=True)
                slopes = {n: g + self.near * (p - start[n]) for (n, p), g in pairs}
                norm = torch.stack([g.square().sum() for g in slopes.values()]).sum().sqrt().item()
                # as torch.nn.utils.clip_grad_norm_
                rate = self.lr * min(1.0, self.clip / (norm + 1e-6))
                w = {n: p - rate * slopes[n] for n, p in w.items()}
        return before, self._error(w, task["query"]).item()

    def _error(self, w: dict[str, Tensor], part: dict[str, Tensor]) -> Tensor:
        x = part["x"]
        for name, layer in self.layers.items():
            x = functional_call(layer, w, (x,)) if name == self.adapted else layer(x)
        return mse_loss(x, part["y"])


def start_of(name: str, run: Run) -> Start:
    """What the waves start from in a run, and how they go on from there."""
    program = PROGRAMS[name][0]
    meta: Any = run["meta"]
    level = run.plan.model.level("adapt")
    planned = run.plan.level("adapt")
    steps, lr = planned.steps, float(dict(planned.optimizer.named)["lr"])
    if program == "anil_sinusoid":
        return Start({"body": meta.body, "head": meta.head}, "head", steps, lr)
    near = next((float(p.value) for p in run.plan.model.params if p.path == "near"), 0.0)
    clip = level.setting("clip")
    largest = float(clip) if isinstance(clip, int | float) else math.inf
    return Start({"net": meta.net}, "net", steps, lr, near, largest)


def judged(start: Start, tasks: Sequence[Task]) -> tuple[float, float]:
    """The means of `Start.errors` over tasks."""
    before, after = zip(*(start.errors(task) for task in tasks), strict=True)
    return sum(before) / len(before), sum(after) / len(after)


def pooled(steps: int, seed: int) -> Start:
    """One network for all waves, as many of them as MAML sees, by the same optimizer; it adapts as
    MAML does.
    """
    torch.manual_seed(seed)
    waves = Sinusoids(16 * steps, 10, 10, seed=0)
    net = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for k in range(steps):
        batch = [waves[16 * k + i][part] for i in range(16) for part in ("support", "query")]
        loss = mse_loss(net(torch.cat([b["x"] for b in batch])), torch.cat([b["y"] for b in batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Start({"net": net}, "net", steps=5, lr=0.01)


def main(names: Sequence[str]) -> None:
    torch.set_num_threads(1)
    tasks = Sinusoids(1000, 10, 10, seed=1)
    for name in names:
        program, profile = PROGRAMS[name]
        values: figures.Values = {}
        seconds = 0.0
        for seed in range(SEEDS):
            run = bettyc.load(HERE / f"{program}.mlo", profile=profile).compile().start(seed=seed)
            rows = {"before": judged(start_of(name, run), tasks)}
            begin = time.process_time()
            run.to_end()
            seconds += time.process_time() - begin
            rows["after"] = judged(start_of(name, run), tasks)
            for when, (unadapted, error) in rows.items():
                for metric, value in (("error", error), ("error_unadapted", unadapted)):
                    values.setdefault(metric, {}).setdefault(when, []).append(value)
            if name == "maml_sinusoid":
                _, error = judged(pooled(run.total, seed), tasks)
                values.setdefault("error_pooled", {}).setdefault("after", []).append(error)
            print(name, seed, rows, flush=True)
        figures.keep(name, values, seconds / SEEDS)
    figures.write_table()


if __name__ == "__main__":
    main(sys.argv[1:] or list(PROGRAMS))
