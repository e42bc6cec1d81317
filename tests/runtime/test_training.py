"""One-level training has the bits of plain torch: optimizers, schedules, precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from toys import classification, start

from bettyc.failures import RunError
from bettyc.runtime.scaling import Scaler
from bettyc.runtime.state import State

PROGRAM = """
mlo 0.1
dim n, d, C = 2
data all : { x: real[n, d], y: int<C>[n] } from memory()
level fit {
  var W : real[d, C] = gaussian(std = 0.5)
  var b : real[C] = zeros
  draw s from all(batch = 12)
  minimize mean(xent(s.x @ W + b, s.y))
  SETTINGS
}
run { steps = 20  RUN }
"""
DATA = classification()


def train(settings: str, run: str = "", **options):
    text = PROGRAM.replace("SETTINGS", settings).replace("RUN", run)
    return start(text, {"all": DATA}, opt=0, **options)


def by_torch(
    run, make, *, schedule=None, clip=None, accumulate=1, steps=20, dtype=torch.float32
) -> list[Tensor]:
    """The same training by hand, from the run's initial values, batches in order."""
    w = torch.nn.Parameter(run["fit"].W)
    b = torch.nn.Parameter(run["fit"].b)
    optimizer = make([w, b])
    scheduler = schedule(optimizer) if schedule else None
    x, y, at = DATA["x"].to(dtype), DATA["y"], 0
    for _ in range(steps):
        optimizer.zero_grad()
        for _ in range(accumulate):
            rows = slice(at, at + 12)
            at = (at + 12) % 60
            loss = torch.mean(F.cross_entropy(x[rows] @ w + b, y[rows], reduction="none"))
            (loss / accumulate).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_([w, b], clip, foreach=False)
        optimizer.step()
        if scheduler:
            scheduler.step()
    return [w.detach(), b.detach()]


ELEMENTWISE = {
    "sgd(lr = 0.5, momentum = 0.9, nesterov = true)": lambda p: torch.optim.SGD(
        p, 0.5, 0.9, nesterov=True
    ),
    "adam(lr = 0.05)": lambda p: torch.optim.Adam(p, 0.05, foreach=False),
    "adamw(lr = 0.05)": lambda p: torch.optim.AdamW(p, 0.05, foreach=False),
    "rmsprop(lr = 0.05)": lambda p: torch.optim.RMSprop(p, 0.05, foreach=False),
    "adagrad(lr = 0.05)": lambda p: torch.optim.Adagrad(p, 0.05, foreach=False),
    "adadelta": lambda p: torch.optim.Adadelta(p, foreach=False),
    "adamax": lambda p: torch.optim.Adamax(p, foreach=False),
    "nadam": lambda p: torch.optim.NAdam(p, foreach=False),
    "radam": lambda p: torch.optim.RAdam(p, foreach=False),
    "rprop": lambda p: torch.optim.Rprop(p, foreach=False),
    "asgd": lambda p: torch.optim.ASGD(p, foreach=False),
    "adafactor": lambda p: torch.optim.Adafactor(p, foreach=False),
}


@pytest.mark.parametrize("optimizer", ELEMENTWISE)
def test_optimizers(optimizer):
    run = train(f"optimizer = {optimizer}")
    expected = by_torch(run, ELEMENTWISE[optimizer])
    run.to_end()

    assert torch.equal(run["fit"].W, expected[0])
    assert torch.equal(run["fit"].b, expected[1])


def test_a_schedule_steps_once_per_update():
    run = train("optimizer = sgd(lr = 0.5)  lr_schedule = cosine  accumulate = 2")
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    expected = by_torch(
        run, lambda p: torch.optim.SGD(p, 0.5), schedule=lambda o: cosine(o, 20), accumulate=2
    )
    run.to_end()

    # halves are added in another order than torch does
    torch.testing.assert_close(run["fit"].W, expected[0], rtol=1e-6, atol=1e-7)
    assert run.state.updates["fit"] == 20
    assert run.state.gradients["fit"] == 40


def test_clipping():
    run = train("optimizer = sgd(lr = 2.0)  clip = 0.05")
    expected = by_torch(run, lambda p: torch.optim.SGD(p, 2.0), clip=0.05)
    free = train("optimizer = sgd(lr = 2.0)")
    run.to_end()
    free.to_end()

    torch.testing.assert_close(run["fit"].W, expected[0], rtol=1e-6, atol=1e-7)
    assert not torch.allclose(free["fit"].W, expected[0], rtol=1e-2)


def test_double_precision():
    run = train("optimizer = adam(lr = 0.05)", "precision = fp64")
    expected = by_torch(
        run, lambda p: torch.optim.Adam(p, 0.05, foreach=False), dtype=torch.float64
    )
    run.to_end()

    assert run["fit"].W.dtype == torch.float64
    assert torch.equal(run["fit"].W, expected[0])


@pytest.mark.parametrize("where", ["level", "run"])
def test_bf16_keeps_variables_in_fp32_and_computes_in_bf16(where):
    level = "precision = bf16" if where == "level" else ""
    run = train(
        f"optimizer = sgd(lr = 0.5)  {level}", "" if where == "level" else "precision = bf16"
    )
    w, b = (torch.nn.Parameter(v) for v in (run["fit"].W, run["fit"].b))
    optimizer = torch.optim.SGD([w, b], lr=0.5)
    x, at = DATA["x"].float(), 0
    for _ in range(20):
        rows = slice(at, at + 12)
        at = (at + 12) % 60
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = torch.mean(F.cross_entropy(x[rows] @ w + b, DATA["y"][rows], reduction="none"))
        loss.backward()
        optimizer.step()
    single = train("optimizer = sgd(lr = 0.5)")
    run.to_end()
    single.to_end()

    assert run["fit"].W.dtype == torch.float32
    assert torch.equal(run["fit"].W, w.detach())
    assert not torch.equal(run["fit"].W, single["fit"].W)


def test_large_levels_are_updated_in_place():
    """A level beyond LARGE keeps its storage, and has the bits of the pure update."""
    from bettyc.runtime.stage import LARGE

    text = """
mlo 0.1
level fit {
  var w : real[SIZE] = gaussian
  minimize mean(w^4)
  optimizer = adam(lr = 0.05)
}
run { steps = 5 }
"""
    run = start(text.replace("SIZE", str(LARGE)), opt=0)
    twin = torch.nn.Parameter(run["fit"].w)
    optimizer = torch.optim.Adam([twin], 0.05, foreach=False)
    place = run.state.theta["fit"].data_ptr()
    for _ in range(5):
        optimizer.zero_grad()
        torch.mean(twin**4.0).backward()
        optimizer.step()
    run.to_end()

    assert run.state.theta["fit"].data_ptr() == place
    assert torch.equal(run["fit"].w, twin.detach())


def test_a_moving_average_in_a_metric():
    text = PROGRAM.replace("SETTINGS", "optimizer = sgd(lr = 0.5)").replace(
        "RUN", "eval = every(1)"
    )
    text += "metric slow = mean(abs(ema(fit.W, decay = 0.8)))\n"
    run = start(text, {"all": DATA})
    average = run["fit"].W
    for out in run:
        average = torch.lerp(run["fit"].W, average, 0.8)

        assert out.metrics["slow"] == pytest.approx(float(average.abs().mean()), rel=1e-6)


def test_averages_are_resumed(tmp_path):
    text = PROGRAM.replace("SETTINGS", "optimizer = sgd(lr = 0.5)").replace("RUN", "")
    text += "metric slow = mean(abs(ema(fit.W, decay = 0.8)))\n"
    whole, first, second = (start(text, {"all": DATA}) for _ in range(3))
    whole.to_end()
    for _ in range(7):
        first.step()
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    second.to_end()

    assert whole.metrics() == second.metrics()


def test_resuming_a_plateau(tmp_path):
    settings = "optimizer = sgd(lr = 0.5)  lr_schedule = plateau(patience = 1, threshold = 0.5)"
    whole, first, second = (train(settings) for _ in range(3))
    whole.to_end()
    for _ in range(9):
        first.step()
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    second.to_end()

    assert whole.stages["fit"].options.rates[0] < 0.5
    assert torch.equal(whole["fit"].W, second["fit"].W)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_fp16_scales_the_loss_as_torch_does(accumulate):
    """Against torch.amp.GradScaler, from a scale so large that the first updates overflow; an
    update is left out whole, with all the batches that it was made of.
    """
    settings = f"optimizer = sgd(lr = 0.5, momentum = 0.9)  accumulate = {accumulate}"
    run = train(f"{settings}  precision = fp16")
    run.stages["fit"].scaler.first = 2.0**24
    run.stages["fit"].scaler.interval = 7
    w, b = (torch.nn.Parameter(v) for v in (run["fit"].W, run["fit"].b))
    optimizer = torch.optim.SGD([w, b], 0.5, 0.9, foreach=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=7)
    x, at, scales = DATA["x"].float(), 0, []
    for _ in range(20):
        optimizer.zero_grad()
        for _ in range(accumulate):
            rows = slice(at, at + 12)
            at = (at + 12) % 60
            with torch.autocast("cpu", torch.float16):
                loss = torch.mean(
                    F.cross_entropy(x[rows] @ w + b, DATA["y"][rows], reduction="none")
                )
            scaler.scale(loss / accumulate).backward()
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
        run.step()

        if accumulate == 1:  # torch divides before the overflow, so it may come a scale later
            assert run.stages["fit"].scaler.scale == scales[-1]
    made = run.state.gradients["fit"]

    assert min(scales) < 2.0**24
    assert made % accumulate == 0
    assert made < 20 * accumulate
    if accumulate == 1:
        assert max(scales[8:]) > min(scales)
        torch.testing.assert_close(run["fit"].W, w.detach(), rtol=1e-6, atol=1e-7)


def test_an_update_that_overflows_is_replayed_by_nobody():
    """unroll through an fp16 level whose first updates are left out: only those that were made."""
    text = """
mlo 0.1
dim n, d, C = 2
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4
level fit {
  var W : real[d, C] = gaussian(std = 0.5)
  draw s from train(batch = 12)
  minimize mean(xent(s.x @ W, s.y)) + exp(tune.a) * sumsq(W)
  optimizer = sgd(lr = 0.1)
  accumulate = 2
  precision = fp16
  steps = 4
  start = reset
  hypergrad = unroll
}
level tune {
  var a : real = -2
  minimize mean(xent(val.x @ fit*.W, val.y))
  optimizer = sgd(lr = 0.1)
}
run { steps = 1 }
"""
    run = start(text, {"all": DATA}, opt=0)
    stage = run.stages["fit"]
    stage.scaler.first = 2.0**18
    run.step()

    assert run.state.gradients["fit"] < 8
    assert stage.trajectory.length == run.state.gradients["fit"]
    assert [r.count for r in stage.trajectory.records] == list(range(stage.trajectory.length))
    assert torch.isfinite(run["tune"].a)


def test_fp16_that_overflows_at_every_scale():
    scaler = Scaler("fit", State(), first=1.0)
    for _ in range(14):
        scaler.note(False)
    with pytest.raises(RunError, match="overflow fp16 at every scale"):
        scaler.note(False)

    assert scaler.scale == 2.0**-14


@pytest.mark.parametrize("where", ["level", "run"])
def test_tf32_is_allowed_inside_a_level_s_gradient_only(where):
    """On a machine without such a GPU the numbers are those of fp32."""
    seen = []

    def note(x):
        seen.append((torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32))
        return x

    text = 'mlo 0.1\nextern fn note(x: real[B]) -> real[B] from "nowhere:note"' + PROGRAM.replace(
        "mlo 0.1", ""
    ).replace("xent(s.x @ W + b, s.y)", "note(xent(s.x @ W + b, s.y))")
    level = "precision = tf32" if where == "level" else ""
    text = text.replace("SETTINGS", f"optimizer = sgd(lr = 0.5)  {level}")
    text = text.replace("RUN", "" if where == "level" else "precision = tf32")
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    run = start(text, {"all": DATA}, {"note": note}, opt=0)
    single = train("optimizer = sgd(lr = 0.5)")
    run.to_end()
    single.to_end()

    assert set(seen) == {(True, True)}
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before
    if not torch.cuda.is_available():
        assert torch.equal(run["fit"].W, single["fit"].W)
