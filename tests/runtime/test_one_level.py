"""A one-level program is plain training: every schedule, cycled momentum, averages, clipping by
value, L-BFGS, each against torch itself.
"""

from __future__ import annotations

import inspect

import pytest
import torch
from test_training import DATA, by_torch, train
from torch.nn import functional as F
from torch.optim import lr_scheduler as theirs
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn
from toys import classification, start

from bettyc.api import MloError
from bettyc.optimizers import OPTIMIZERS
from bettyc.schedules import SCHEDULES

SCHEDULED = {
    "step(3, 0.7)": lambda o: theirs.StepLR(o, 3, 0.7),
    "multistep([4, 9])": lambda o: theirs.MultiStepLR(o, [4, 9]),
    "exponential(0.9)": lambda o: theirs.ExponentialLR(o, 0.9),
    "cosine(0.01)": lambda o: theirs.CosineAnnealingLR(o, 20, 0.01),
    "linear(1.0, 0.1)": lambda o: theirs.LinearLR(o, 1.0, 0.1, 20),
    "polynomial(2.0)": lambda o: theirs.PolynomialLR(o, 20, 2.0),
    "warmup(5)": lambda o: theirs.LambdaLR(o, lambda t: min(1.0, (t + 1) / 5)),
    "constant(0.5, 4)": lambda o: theirs.ConstantLR(o, 0.5, 4),
    "restarts(6, 2)": lambda o: theirs.CosineAnnealingWarmRestarts(o, 6, 2),
    "cyclic(0.9, 4, cycle_momentum = true)": lambda o: theirs.CyclicLR(o, 0.3, 0.9, 4),
    "onecycle(0.8)": lambda o: theirs.OneCycleLR(o, 0.8, total_steps=20, cycle_momentum=False),
    "onecycle(0.8, cycle_momentum = true, three_phase = true)": lambda o: theirs.OneCycleLR(
        o, 0.8, total_steps=20, three_phase=True
    ),
    "sequential([constant(0.1, 5), exponential(0.9)], [5])": lambda o: theirs.SequentialLR(
        o, [theirs.ConstantLR(o, 0.1, 5), theirs.ExponentialLR(o, 0.9)], [5]
    ),
    "chained([constant(0.1, 5), exponential(0.9)])": lambda o: theirs.ChainedScheduler(
        [theirs.ConstantLR(o, 0.1, 5), theirs.ExponentialLR(o, 0.9)], o
    ),
    "swa(0.05, 7)": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, 7),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("schedule", SCHEDULED)
def test_schedules(schedule):
    run = train(f"optimizer = sgd(lr = 0.3, momentum = 0.9)  lr_schedule = {schedule}")
    expected = by_torch(
        run, lambda p: torch.optim.SGD(p, 0.3, 0.9, foreach=False), schedule=SCHEDULED[schedule]
    )
    run.to_end()

    assert torch.equal(run["fit"].W, expected[0])
    assert torch.equal(run["fit"].b, expected[1])


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_betas_are_cycled_too(name):
    run = train(f"optimizer = {name}(lr = 0.05)  lr_schedule = onecycle(cycle_momentum = true)")
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    expected = by_torch(
        run,
        lambda p: make(p, 0.05, foreach=False),
        schedule=lambda o: theirs.OneCycleLR(o, 0.05, total_steps=20),
    )
    run.to_end()

    assert torch.equal(run["fit"].W, expected[0])


@pytest.mark.parametrize(
    "options", ["patience = 1, threshold = 0.5", 'patience = 1, mode = "max", threshold = 0.01']
)
def test_plateau(options):
    """It looks once per update of the top level, after the update."""
    run = train(f"optimizer = sgd(lr = 0.5)  lr_schedule = plateau({options})")
    w, b = (torch.nn.Parameter(v) for v in (run["fit"].W, run["fit"].b))
    optimizer = torch.optim.SGD([w, b], lr=0.5)
    given = eval(f"dict({options})")
    scheduler = theirs.ReduceLROnPlateau(optimizer, **given)
    x, at = DATA["x"].float(), 0
    for _ in range(20):
        rows = slice(at, at + 12)
        at = (at + 12) % 60
        optimizer.zero_grad()
        loss = torch.mean(F.cross_entropy(x[rows] @ w + b, DATA["y"][rows], reduction="none"))
        loss.backward()
        optimizer.step()
        scheduler.step(float(loss.detach()))
    run.to_end()

    assert optimizer.param_groups[0]["lr"] < 0.5
    assert torch.equal(run["fit"].W, w.detach())


def test_a_function_from_python_as_schedule():
    text = 'mlo 0.1\nextern fn half(t: int) -> real from "nowhere:half"' + PROGRAM
    run = start(text, {"all": DATA}, {"half": lambda t: 1 / (1 + t)}, opt=0)
    expected = by_torch(
        run,
        lambda p: torch.optim.SGD(p, 0.3),
        schedule=lambda o: theirs.LambdaLR(o, lambda t: 1 / (1 + t)),
    )
    run.to_end()

    assert torch.equal(run["fit"].W, expected[0])


PROGRAM = """
dim n, d, C = 2
data all : { x: real[n, d], y: int<C>[n] } from memory()
level fit {
  var W : real[d, C] = gaussian(std = 0.5)
  var b : real[C] = zeros
  draw s from all(batch = 12)
  minimize mean(xent(s.x @ W + b, s.y))
  optimizer = sgd(lr = 0.3)
  lr_schedule = factor(half)
}
run { steps = 20 }
"""


def test_clipping_by_value():
    run = train("optimizer = sgd(lr = 2.0, momentum = 0.9)  clip_value = 0.02  accumulate = 1")
    w, b = (torch.nn.Parameter(v) for v in (run["fit"].W, run["fit"].b))
    optimizer = torch.optim.SGD([w, b], 2.0, 0.9, foreach=False)
    x, at = DATA["x"].float(), 0
    for _ in range(20):
        rows = slice(at, at + 12)
        at = (at + 12) % 60
        optimizer.zero_grad()
        torch.mean(F.cross_entropy(x[rows] @ w + b, DATA["y"][rows], reduction="none")).backward()
        torch.nn.utils.clip_grad_value_([w, b], 0.02)
        optimizer.step()
    run.to_end()

    assert torch.equal(run["fit"].W, w.detach())


@pytest.mark.parametrize("kind", ["lbfgs(tol = 1e-10)", "newton(tol = 1e-10)"])
def test_solvers_end_where_torch_s_lbfgs_does(kind):
    text = """
mlo 0.1
dim n, d, C = 2
data all : { x: real[n, d], y: int<C>[n] } from memory()
level fit {
  var W : real[d, C] = zeros
  minimize mean(xent(all.x @ W, all.y)) + 0.05 * sumsq(W)
  optimizer = KIND
}
run { steps = 1  precision = fp64 }
"""
    run = start(text.replace("KIND", kind), {"all": DATA}, opt=0)
    w = torch.nn.Parameter(run["fit"].W)
    optimizer = torch.optim.LBFGS(
        [w], max_iter=500, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(DATA["x"] @ w, DATA["y"]) + 0.05 * (w**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    run.to_end()

    torch.testing.assert_close(run["fit"].W, w.detach(), rtol=1e-6, atol=1e-7)


NETWORK = """
mlo 0.1
dim n, d, C = 2
extern module net() : real[B, d] -> real[B, C] from "nowhere:net"
data all : { x: real[n, d], y: int<C>[n] } from memory()
level fit {
  module net = net()
  draw s from all(batch = 12)
  minimize mean(xent(net(s.x), s.y))
  optimizer = sgd(lr = 0.5)
  average = AVERAGE
}
metric seen = mean(fit.net(all.x)[:, 0])
run { steps = 9  eval = every(1)  export = [fit.net] }
"""


def net():
    layers = torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2)
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("setting", "average", "first", "every"),
    [
        ("ema(0.8)", get_ema_multi_avg_fn(0.8), 0, 1),
        ("swa", get_swa_multi_avg_fn(), 0, 1),
        ("swa(start = 3, every = 2)", get_swa_multi_avg_fn(), 3, 2),
    ],
)
def test_averages(setting, average, first, every):
    """Parameters are those of torch's AveragedModel. Its averaging of buffers fails on the counter
    of BatchNorm, so those are done by hand. Metrics see both.
    """
    run = start(NETWORK.replace("AVERAGE", setting), {"all": classification()}, {"net": net})
    twin = AveragedModel(run["fit"].net, multi_avg_fn=average)
    x, taken = DATA["x"].float(), 0
    means = run["fit"].net[1].running_mean.clone()
    for k, out in enumerate(run):
        now = run["fit"].net
        if k >= first and (k - first) % every == 0:
            twin.update_parameters(now)
            weight = 1.0 if not taken else 1 / (taken + 1) if "swa" in setting else 1 - 0.8
            means = torch.lerp(means, now[1].running_mean, weight)
            taken += 1
        found = run.averaged("fit").net
        model = twin.module if taken else now
        for (name, value), mine in zip(model.named_parameters(), found.parameters(), strict=True):
            assert torch.equal(mine, value), (k, name)
        if taken:
            torch.testing.assert_close(found[1].running_mean, means)
        seen = float(found.eval()(x)[:, 0].mean().detach())

        assert out.metrics["seen"] == pytest.approx(seen, rel=1e-5)


def test_averages_are_resumed_and_exported(tmp_path, monkeypatch):
    from safetensors.torch import load_file

    from bettyc.cli.folder import Folder

    text = NETWORK.replace("AVERAGE", "ema(0.8)")
    whole, first, second = (start(text, {"all": DATA}, {"net": net}) for _ in range(3))
    whole.to_end()
    for _ in range(4):
        first.step()
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    last = second.to_end()
    with Folder(str(tmp_path / "out"), "p") as folder:
        folder.end(second, second.plan, last, 1.0)
    exported = load_file(tmp_path / "out" / "export.safetensors")
    expected = whole.averaged("fit").net.state_dict()

    assert whole.metrics() == second.metrics()
    assert torch.equal(exported["fit.net.0.weight"], expected["0.weight"])
    assert not torch.equal(exported["fit.net.0.weight"], whole["fit"].net[0].weight)


def test_an_inner_loop_that_starts_anew_begins_a_new_average():
    text = """
mlo 0.1
level fit {
  var w : real = 0
  minimize (w - tune.a)^2
  optimizer = sgd(lr = 0.1)
  steps = 3
  start = reset
  average = swa
}
level tune {
  var a : real = 1
  minimize (fit*.w)^2
  optimizer = sgd(lr = 0.1)
}
run { steps = 2 }
"""
    run = start(text)
    seen = []
    for _ in run:
        a, w, ws = None, 0.0, []
        a = run["tune"].a
        seen.append((a, run.averaged("fit").w))
    # the second round starts from the `a` that the first round has left
    a, w, ws = float(seen[0][0]), 0.0, []
    for _ in range(3):
        w -= 0.1 * 2 * (w - a)
        ws.append(w)

    assert float(seen[1][1]) == pytest.approx(sum(ws) / 3, rel=1e-6)


# what the language says in its own way, or what does not change a number
OTHERWISE = {"params", "maximize", "foreach", "capturable", "differentiable", "fused"}
THEIR_NAMES = {
    "adam": "Adam", "adamw": "AdamW", "sgd": "SGD", "rmsprop": "RMSprop", "adagrad": "Adagrad",
    "adadelta": "Adadelta", "adamax": "Adamax", "nadam": "NAdam", "radam": "RAdam",
    "rprop": "Rprop", "asgd": "ASGD", "adafactor": "Adafactor", "muon": "Muon",
}  # fmt: skip


@pytest.mark.parametrize("name", THEIR_NAMES)
def test_every_option_of_torch_s_optimizers_is_there(name):
    theirs_ = inspect.signature(getattr(torch.optim, THEIR_NAMES[name])).parameters
    wanted = {n: p.default for n, p in theirs_.items() if n not in OTHERWISE}
    ours = vars(OPTIMIZERS[name]())
    if name == "adam":  # its decoupled form is `adamw`
        wanted.pop("decoupled_weight_decay")
    if name == "adafactor":  # its eps is two numbers
        wanted.pop("eps")
        ours = {k: v for k, v in ours.items() if k not in ("eps1", "eps2")}

    assert ours == {n: v if v is not None else "" for n, v in wanted.items()}


def test_every_optimizer_of_torch_is_there():
    """But SparseAdam, which is for sparse gradients, that formulas do not give."""
    base = torch.optim.Optimizer
    theirs_ = {
        n
        for n in torch.optim.__all__
        if inspect.isclass(found := getattr(torch.optim, n)) and issubclass(found, base)
    }

    assert theirs_ - {"Optimizer", "SparseAdam", "LBFGS"} == set(THEIR_NAMES.values())
    assert "lbfgs" in OPTIMIZERS


def test_every_scheduler_of_torch_is_there():
    names = {
        "LambdaLR": "factor", "MultiplicativeLR": "multiply", "StepLR": "step",
        "MultiStepLR": "multistep", "ConstantLR": "constant", "LinearLR": "linear",
        "ExponentialLR": "exponential", "SequentialLR": "sequential",
        "CosineAnnealingLR": "cosine", "ChainedScheduler": "chained",
        "ReduceLROnPlateau": "plateau", "CyclicLR": "cyclic",
        "CosineAnnealingWarmRestarts": "restarts", "OneCycleLR": "onecycle",
        "PolynomialLR": "polynomial", "SWALR": "swa",
    }  # fmt: skip

    assert set(theirs.__all__) - {"LRScheduler"} | {"SWALR"} == set(names)
    assert set(names.values()) | {"warmup"} == set(SCHEDULES)


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("lr_schedule = sequential([cosin, step(3)], [4])", "MLO0602"),
        ("lr_schedule = sequential([step(evry = 3)], [4])", "MLO0602"),
        ("lr_schedule = sequential(3)", "MLO0603"),
        ("lr_schedule = chained([plateau])", "MLO0602"),
        ("average = ema(1.0)", "MLO0603"),
        ("average = swa(every = 0)", "MLO0603"),
        ("average = mean", "MLO0602"),
        ("clip_value = 0", "MLO0603"),
    ],
)
def test_settings_that_make_no_sense(setting, code):
    with pytest.raises(MloError) as raised:
        train(f"optimizer = sgd(lr = 0.1)  {setting}")

    assert [d.code for d in raised.value.diagnostics] == [code]
