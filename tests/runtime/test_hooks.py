"""Hooks see every moment, change what they may, and cannot change anything else."""

from __future__ import annotations

import pytest
import torch
from toys import classification, ridge, start

from bettyc.failures import CallbackError, RunError
from bettyc.runtime.hooks import Hooks

SGD = "optimizer = sgd(lr = 0.1)  steps = 3  hypergrad = cg(tol = 1e-10)"


class Log(Hooks):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_inner_start(self, event):
        self.seen.append(f"start {event.level} {event.step}")

    def on_gradient(self, event):
        assert event.gradient.shape == event.theta.shape
        self.seen.append(f"gradient {event.level} {event.update}")

    def on_update(self, event):
        self.seen.append(f"update {event.level} {event.update}")

    def on_hypergradient(self, level, found):
        self.seen.append(f"hypergradient {level} {len(found.reports)}")

    def on_step(self, output):
        self.seen.append(f"step {output.step}")


def test_the_order_of_moments():
    log = Log()
    run = ridge(SGD, hooks=log)
    run.step()
    inner = [f"{what} fit {k}" for k in range(3) for what in ("gradient", "update")]

    assert log.seen == [
        "start fit 0", *inner, "start tune 0", "hypergradient tune 1", "gradient tune 0",
        "update tune 0", "step 0",
    ]  # fmt: skip
    run.step()
    assert "start fit 1" in log.seen


def test_watching_changes_nothing():
    run, plain = ridge(SGD, hooks=Log()), ridge(SGD)
    run.to_end()
    plain.to_end()

    assert torch.equal(run["tune"].log_wd, plain["tune"].log_wd)


def test_validation_and_epochs():
    class Validate(Log):
        def on_validation(self, step, metrics):
            self.seen.append(f"validation {step} {sorted(metrics)}")

        def on_epoch(self, draw, epoch):
            self.seen.append(f"epoch {draw} {epoch}")

    text = """
mlo 0.1
dim n, d, C = 2
data all : { x: real[n, d], y: int<C>[n] } from memory()
level fit {
  var W : real[d, C] = zeros
  draw b from all(batch = 30)
  minimize mean(xent(b.x @ W, b.y))
  optimizer = sgd(lr = 0.1)
}
metric acc = accuracy(all.x @ fit.W, all.y)
run { steps = 4  eval = every(2) }
"""
    hooks = Validate()
    start(text, {"all": classification()}, hooks=hooks).to_end()

    assert [s for s in hooks.seen if s.startswith("epoch")] == ["epoch fit.b 0", "epoch fit.b 1"]
    assert [s for s in hooks.seen if s.startswith("val")] == [
        "validation 1 ['acc']",
        "validation 3 ['acc']",
    ]


def test_another_gradient():
    class Halve(Hooks):
        def on_gradient(self, event):
            return event.gradient / 2 if event.level == "fit" else None

    run = ridge(SGD, hooks=Halve())
    plain = ridge(SGD.replace("0.1", "0.05"))
    run.step()
    plain.step()

    torch.testing.assert_close(run["fit"].w, plain["fit"].w)


def test_another_optimizer():
    class Own(Hooks):
        def optimizer_step(self, event):
            return event.theta - 0.1 * event.gradient if event.level == "fit" else None

    run, plain = ridge(SGD.replace("0.1", "9.0"), hooks=Own()), ridge(SGD)
    run.step()
    plain.step()

    torch.testing.assert_close(run["fit"].w, plain["fit"].w)


def write(event) -> None:
    event.theta.add_(1.0)


@pytest.mark.parametrize("hook", ["on_gradient", "on_update", "on_inner_start"])
def test_writing_into_variables_is_found_out(hook):
    hooks = type("Writes", (Hooks,), {hook: lambda self, event: write(event)})()
    with pytest.raises(RunError, match=f"`{hook}` wrote into the variables of level `fit`"):
        ridge(SGD, hooks=hooks).step()


def test_replayed_levels_refuse_changed_updates():
    class Halve(Hooks):
        def on_gradient(self, event):
            return event.gradient / 2

    with pytest.raises(RunError, match="replays"):
        ridge("optimizer = sgd(lr = 0.1)  steps = 3  hypergrad = unroll", hooks=Halve()).step()


def test_a_wrong_shape_and_an_exception():
    class Wrong(Hooks):
        def on_gradient(self, event):
            return event.gradient[:2]

    class Raises(Hooks):
        def on_step(self, output):
            raise KeyError("mine")

    with pytest.raises(RunError, match=r"returned \(2,\), level `fit` has \(5,\)"):
        ridge(SGD, hooks=Wrong()).step()
    with pytest.raises(CallbackError, match="hook `on_step` raised KeyError"):
        ridge(SGD, hooks=Raises()).step()
