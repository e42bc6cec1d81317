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


WRITES = {
    "theta": lambda event, run: event.theta.add_(1.0),
    "gradient": lambda event, run: event.gradient.mul_(0.5),
    "theta of the run": lambda event, run: run.state.theta["fit"].add_(1.0),
    "another theta": lambda event, run: run["fit"].assign(w=torch.zeros(5)),
    "the optimizer": lambda event, run: run.state.optimizer["fit"]["momentum"].zero_(),
}


@pytest.mark.parametrize("what", WRITES)
@pytest.mark.parametrize("hook", ["on_gradient", "on_update", "optimizer_step", "on_inner_start"])
def test_writing_is_found_out(hook, what):
    if hook == "on_inner_start" and what == "gradient":
        what = "theta"  # there is none yet

    class Writes(Hooks):
        def later(self, event):
            if event.level == "fit" and event.step == 1:
                WRITES[what](event, self.run)

    hooks = type("Mine", (Writes,), {hook: Writes.later})()
    momentum = SGD.replace("lr = 0.1", "lr = 0.1, momentum = 0.5")
    run = hooks.run = ridge(momentum, hooks=hooks)
    run.step()
    with pytest.raises(RunError, match=f"`{hook}` wrote into .*`fit`"):
        run.step()


@pytest.mark.parametrize("hook", ["on_hypergradient", "on_step", "on_validation"])
def test_writing_between_updates_is_found_out_too(hook):
    class Writes(Hooks):
        def late(self, *arguments):
            self.run.state.theta["tune"].add_(1.0)

    hooks = type("Mine", (Writes,), {hook: Writes.late})()
    run = hooks.run = ridge(SGD + "\n}\nmetric size = sum(fit.w)\nlevel other {\n  var z : real = 0"
                            "\n  minimize z^2\n  optimizer = sgd", hooks=hooks)  # fmt: skip
    with pytest.raises(RunError, match=f"`{hook}` wrote into the variables of level `tune`"):
        run.to_end()


def test_writing_behind_torch_s_back_reaches_a_copy_only():
    class Sly(Hooks):
        def on_gradient(self, event):
            event.gradient.data.zero_()
            event.theta.numpy()[:] = 7

        def on_hypergradient(self, level, found):
            found.grad.data.zero_()

    run, plain = ridge(SGD, hooks=Sly()), ridge(SGD)
    run.to_end()
    plain.to_end()

    assert torch.equal(run["tune"].log_wd, plain["tune"].log_wd)


def test_an_optimizer_of_one_s_own_sees_whole_updates_and_is_resumed(tmp_path):
    """Momentum by hand with `accumulate = 2`, against the built-in one; checkpoints hold it."""

    class Momentum(Hooks):
        def __init__(self):
            self.held: dict[str, torch.Tensor] = {}
            self.updates = 0

        def optimizer_step(self, event):
            if event.level != "fit":
                return None
            old = self.held.get("m")
            self.held["m"] = event.gradient if old is None else 0.9 * old + event.gradient
            return event.theta - 0.1 * self.held["m"]

        def on_update(self, event):
            self.updates += event.level == "fit"

        def state(self):
            return {"held": self.held, "updates": self.updates}

        def restore(self, state):
            self.held, self.updates = dict(state["held"]), state["updates"]

    settings = SGD.replace("sgd(lr = 0.1)", "sgd(lr = 0.1, momentum = 0.9)  accumulate = 2")
    plain, whole, first, second = (
        ridge(settings), *(ridge(settings, hooks=Momentum()) for _ in range(3))
    )  # fmt: skip
    plain.to_end()
    whole.to_end()
    first.step()
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    second.to_end()

    torch.testing.assert_close(whole["fit"].w, plain["fit"].w)
    assert torch.equal(second["fit"].w, whole["fit"].w)
    assert second.hooks.hooks.updates == whole.hooks.hooks.updates == 12


def test_epochs_of_streams_and_of_resumed_runs(tmp_path):
    class Told(Hooks):
        def __init__(self):
            self.seen = []

        def on_epoch(self, draw, epoch):
            self.seen.append((draw, epoch))

    text = """
mlo 0.1
dim n = 20, d = 4
data all : { x: real[n, d], y: int<2>[n] } from memory()
level fit {
  var w : real[d, 2] = zeros
  draw b from all
  minimize mean(xent(b.x @ w, b.y))
  optimizer = sgd(lr = 0.1)
}
run { steps = 8 }
"""
    data = classification()
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(data["x"], data["y"]), batch_size=20
    )
    whole, first, second = (start(text, {"all": loader}, hooks=Told()) for _ in range(3))
    whole.to_end()
    for _ in range(5):
        first.step()
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    second.to_end()

    assert whole.hooks.hooks.seen == [("fit.b", 0), ("fit.b", 1), ("fit.b", 2)]
    assert first.hooks.hooks.seen + second.hooks.hooks.seen == whole.hooks.hooks.seen


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
