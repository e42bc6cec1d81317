"""Every example checks without a warning, and its smoke profile runs."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import bettyc

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.mlo"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_smoke_profile_runs(path: Path) -> None:
    if any(f'"{name}:' in path.read_text() for name in ("cartpole", "pendulum")):
        pytest.importorskip("gymnasium")
    program = bettyc.load(path, profile="smoke", set={"run.eval": "every(1)"})

    assert program.check().diagnostics == ()
    outputs = list(program.compile().start())

    assert program.checked.model is not None
    assert len(outputs) == program.checked.model.setting("steps")
    assert all(
        math.isfinite(v) for out in outputs for v in (*out.loss.values(), *out.metrics.values())
    )


def test_the_table_names_every_metric_of_every_program() -> None:
    table = (EXAMPLES[0].parent / "README.md").read_text()

    for path in EXAMPLES:
        if path.stem == "maml_omniglot":  # it has a table of its own, by what was held out
            continue
        model = bettyc.load(path).checked.model
        assert model is not None
        for metric in model.metrics:
            assert f"| {path.stem} | {metric.name} |" in table


def test_every_figure_is_written_by_a_script(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = EXAMPLES[0].parent
    monkeypatch.syspath_prepend(str(folder))
    figures = importlib.import_module("figures")
    monkeypatch.delitem(sys.modules, "figures")

    assert {path.stem for path in (folder / "figures").glob("*.json")} <= figures.kept_by_name()


def test_the_simulated_pendulum_is_that_of_gymnasium(monkeypatch: pytest.MonkeyPatch) -> None:
    gym = pytest.importorskip("gymnasium")
    monkeypatch.syspath_prepend(str(EXAMPLES[0].parent))
    found = importlib.import_module("pendulum_directions")
    for name in ("pendulum_directions", "pendulum"):
        monkeypatch.delitem(sys.modules, name)
    generator = torch.Generator().manual_seed(0)
    policy = torch.randn(20, generator=generator, dtype=torch.float64)
    env = gym.make("Pendulum-v1").unwrapped
    state, total = env.reset(seed=3)[0], 0.0

    def seen(state: Any) -> torch.Tensor:
        return found.features(torch.tensor(state, dtype=torch.float64)[None] / found.SCALE)

    start = seen(state)
    for step in range(40):
        action = torch.tanh(seen(state) @ policy)
        state, reward, *_ = env.step(np.array([2 * float(action)]))
        total += found.GAMMA**step * float(reward) / found.REWARD

    # the states of Gymnasium are rounded to single precision
    assert float(found.value(start, policy, 40, spread=0.0)) == pytest.approx(total, rel=1e-4)


def test_hyper_cleaning_separates_clean_from_corrupted_labels() -> None:
    path = EXAMPLES[0].parent / "hyper_cleaning.mlo"
    run = bettyc.load(path, set={"run.steps": 15, "run.eval": "every(15)"}).compile().start()

    *_, last = run

    assert last.metrics["test_acc"] > last.metrics["test_acc_plain"] + 0.1
    assert last.metrics["auc"] > 0.85


def test_data_pruning_leaves_wrong_labels_out() -> None:
    path = EXAMPLES[0].parent / "data_pruning.mlo"
    run = bettyc.load(path, set={"run.steps": 10, "run.eval": "every(10)"}).compile().start()

    *_, last = run

    # of 898 rows 269 are wrong, and 269 are left out: at random 30 % of the rest would be wrong
    assert last.metrics["wrong_kept"] < 0.1
    assert last.metrics["wrong_kept_by_loss"] < 0.1
    assert last.metrics["test_acc"] > last.metrics["test_acc_random"] + 0.01


def test_learning_to_reweight_takes_the_steps_of_the_paper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ren et al. 2018, algorithm 1, written out; every batch is the whole training set."""
    torch.set_num_threads(1)
    path = EXAMPLES[0].parent / "learning_to_reweight.mlo"
    values = {"B": 1190, "run.precision": "fp64", "run.eval": "every(3)", "run.steps": 3}
    run = bettyc.load(path, set=values).compile().start()
    net = run["student"].net
    theta = {name: p.detach().clone() for name, p in net.named_parameters()}
    speed = {name: torch.zeros_like(p) for name, p in theta.items()}
    monkeypatch.syspath_prepend(str(path.parent))
    digits = importlib.import_module("long_tail").digits
    monkeypatch.delitem(sys.modules, "long_tail")
    train, meta = (
        {k: torch.from_numpy(v) for k, v in digits(part, 1, 0.4, 0, background=0).items()}
        for part in ("train", "meta")
    )

    def losses(at: dict[str, torch.Tensor], part: dict[str, torch.Tensor]) -> torch.Tensor:
        out = torch.func.functional_call(net, at, (part["x"].flatten(1),))
        return cross_entropy(out, part["y"], reduction="none")

    for _ in range(3):
        start = {name: p.clone().requires_grad_() for name, p in theta.items()}
        weight = torch.zeros(1190, dtype=torch.float64, requires_grad=True)
        weighted = (weight * losses(start, train)).mean()
        slopes = torch.autograd.grad(weighted, list(start.values()), create_graph=True)
        ahead = {n: p - 0.03 * g for (n, p), g in zip(start.items(), slopes, strict=True)}
        down = torch.relu(-torch.autograd.grad(losses(ahead, meta).mean(), weight)[0])
        assert 0 < int((down > 0).sum()) < 1190
        step = (down / (down.mean() + 1e-12) * losses(start, train)).mean()
        for name, g in zip(start, torch.autograd.grad(step, list(start.values())), strict=True):
            speed[name] = 0.9 * speed[name] + g
            theta[name] = theta[name] - 0.03 * speed[name]
    *_, _last = run

    for name, p in run["student"].net.named_parameters():
        torch.testing.assert_close(p.detach(), theta[name], rtol=1e-9, atol=1e-11)
