"""Networks from Python: torch's own bits, and nothing that a derivative leaves behind."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from toys import classification, start

from bettyc.failures import CallbackError, InputError

TRAIN = """
mlo 0.1
dim n, d, C = 2
extern module net(width: int) : real[B, d] -> real[B, C] from "nowhere:net"
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4 with (seed = 0)
level fit {
  module net = net(6)
  minimize mean(xent(net(train.x), train.y)) + WEIGHT * sumsq(params(net))
  SETTINGS
}
level tune {
  var log_wd : real = -3
  minimize mean(xent(fit*.net(val.x), val.y))
  optimizer = sgd(lr = 0.1)
}
run { steps = 1  precision = fp64 }
"""


class Plain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Normed(Plain):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.bn = nn.BatchNorm1d(width)

    def forward(self, x):
        return self.b(torch.tanh(self.bn(self.a(x))))


class Dropped(Plain):
    def forward(self, x):
        return self.b(F.dropout(torch.tanh(self.a(x)), 0.5, self.training))


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.c.weight = self.a.weight
        self.b = nn.Linear(4, 2)

    def forward(self, x):
        return self.b(torch.tanh(self.c(torch.tanh(self.a(x)))))


def train(
    module,
    settings: str = "optimizer = sgd(lr = 0.2)  steps = 4",
    weight: str = "exp(tune.log_wd)",
    **options,
):
    text = TRAIN.replace("SETTINGS", settings).replace("WEIGHT", weight)
    return start(text, {"all": classification()}, {"net": module}, **options)


@pytest.mark.parametrize("module", [Plain, Normed, Tied])
def test_steps_have_the_bits_of_torch(module):
    run = train(module, opt=0)
    twin = run["fit"].net.train()
    run.step()
    data = run.sources["train"].whole()
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.2)
    log_wd = torch.tensor(-3.0, dtype=torch.float64)
    for _ in range(4):
        optimizer.zero_grad()
        loss = torch.mean(F.cross_entropy(twin(data["x"]), data["y"], reduction="none"))
        flat = torch.cat([p.reshape(-1) for p in twin.parameters()])
        (loss + torch.exp(log_wd) * torch.sum(torch.square(flat))).backward()
        optimizer.step()
    found = run["fit"].net

    for (name, a), b in zip(found.state_dict().items(), twin.state_dict().values(), strict=True):
        if module is Tied:  # gradients of two uses are added in another order
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
        else:
            assert torch.equal(a, b), name


def test_tied_weights_are_one_variable():
    run = train(Tied)

    assert run.state.theta["fit"].numel() == 16 + 10
    assert run["fit"].net.a.weight is run["fit"].net.c.weight or torch.equal(
        run["fit"].net.a.weight, run["fit"].net.c.weight
    )


def test_a_hypergradient_leaves_statistics_and_variables_alone():
    run = train(Normed)
    run.executor.respond("tune")
    before = {k: v.clone() for k, v in run["fit"].net.state_dict().items()}
    rng = torch.get_rng_state()
    run.hypergrad("tune", respond=False)

    assert all(torch.equal(before[k], v) for k, v in run["fit"].net.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())


def test_statistics_move_with_the_steps_of_their_own_level_only():
    run = train(Normed)
    run.step()

    # four steps of fit; the evaluation of tune's objective does not count
    assert int(run["fit"].net.bn.num_batches_tracked) == 4


@pytest.mark.parametrize("strategy", ["cg(tol = 1e-12, iters = 500, damping = 5.0)", "unroll"])
def test_masks_are_the_same_within_a_derivative(strategy):
    """Objectives of one frame agree to the bit, another gradient has another mask."""
    run = train(Dropped, f"optimizer = sgd(lr = 0.2)  steps = 4  hypergrad = {strategy}")
    run.step()
    stage = run.stages["fit"]
    frame = stage.feed.current()
    values = [float(stage.objective(run.state.theta, frame)) for _ in range(3)]
    other = float(stage.objective(run.state.theta, stage.feed.next()))

    assert values[0] == values[1] == values[2]
    assert values[0] != other


def test_unrolled_dropout_against_differences():
    text = "optimizer = sgd(lr = 0.5)  steps = 3  hypergrad = unroll"
    found = float(train(Dropped, text).hypergrad("tune")["log_wd"])
    losses = []
    for shift in (1e-5, -1e-5):
        run = train(Dropped, text)
        run["tune"].assign(log_wd=run["tune"].log_wd + shift)
        losses.append(float(run.hypergrad("tune").loss))

    assert found == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6)


def test_frozen_parameters_stay_and_the_others_move():
    run = train(Plain, 'optimizer = sgd(lr = 0.2)  steps = 4  freeze = "a.*"')
    before = run["fit"].net
    run.step()
    after = run["fit"].net

    assert run.state.theta["fit"].numel() == 6 * 2 + 2
    assert torch.equal(before.a.weight, after.a.weight)
    assert torch.equal(before.a.bias, after.a.bias)
    assert not torch.equal(before.b.weight, after.b.weight)


def test_metrics_see_the_network_in_evaluation_mode():
    text = TRAIN.replace("SETTINGS", "optimizer = sgd(lr = 0.2)").replace(
        "WEIGHT", "exp(tune.log_wd)"
    )
    text += "metric acc = accuracy(fit.net(val.x), val.y)\nmetric level = mean(fit.net(val.x))\n"
    run = start(text, {"all": classification()}, {"net": Dropped})
    net = run["fit"].net.eval()
    data = run.sources["val"].whole()

    assert run.metrics()["level"] == pytest.approx(float(net(data["x"]).detach().mean()))
    assert run.metrics() == run.metrics()


def test_the_seed_decides_the_initial_parameters():
    a, b, c = (train(Plain, seed=s)["fit"].net.a.weight for s in (0, 0, 1))

    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_network_that_raises_is_named():
    class Broken(Plain):
        def forward(self, x):
            raise ValueError("no such thing")

    with pytest.raises(
        CallbackError, match=r"`fit.net` raised ValueError: no such thing, at .*test_modules.py"
    ):
        train(Broken).step()


@pytest.mark.parametrize(
    ("module", "code"),
    [(3, "MLO0703"), (lambda width: "no module", "MLO0703"), (lambda wide: Plain(wide), "MLO0704")],
)
def test_what_is_no_network(module, code):
    with pytest.raises(InputError) as raised:
        train(module)

    assert raised.value.diagnostics[0].code == code


TASKS = """
mlo 0.1
dim S = 6, d = 3
data tasks : { a: { x: real[S, d], y: real[S] }, b: { x: real[S, d], y: real[S] } } from memory()
level adapt foreach t in tasks(batch = 4) {
  var w : real[d] = gaussian
  minimize mean((t.a.x @ w - t.a.y)^2) + sumsq(w - meta.w)
  SETTINGS
}
level meta {
  var w : real[d] = ones
  minimize mean(mean((k.t.b.x @ k*.w - k.t.b.y)^2) for k in adapt)
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  precision = fp64 }
"""


def tasks(count: int = 8):
    g = torch.Generator().manual_seed(5)

    def one():
        return {"x": torch.randn(6, 3, generator=g, dtype=torch.float64),
                "y": torch.randn(6, generator=g, dtype=torch.float64)}  # fmt: skip

    return [{"a": one(), "b": one()} for _ in range(count)]


@pytest.mark.parametrize(
    "settings",
    ["hypergrad = exact", "optimizer = newton(tol = 1e-13)  hypergrad = cg(tol = 1e-12)"],
)
def test_replicas_against_the_closed_form(settings):
    """iMAML on linear regression: every task solved near the shared w."""
    data = tasks()
    run = start(TASKS.replace("SETTINGS", settings), {"tasks": data})
    found = run.hypergrad("meta")["w"]
    run.executor.respond("meta")
    rows = run.tasks["adapt"].rows
    w = torch.ones(3, dtype=torch.float64)
    total = torch.zeros_like(w)
    for k, i in enumerate(rows.tolist()):
        a, b = data[i]["a"], data[i]["b"]
        h = 2 * a["x"].T @ a["x"] / 6 + 2 * torch.eye(3, dtype=torch.float64)
        solution = torch.linalg.solve(h, 2 * a["x"].T @ a["y"] / 6 + 2 * w)
        torch.testing.assert_close(run["adapt"].w[k], solution)
        total += 2 * torch.linalg.solve(h, 2 * b["x"].T @ (b["x"] @ solution - b["y"]) / 6) / 4

    assert (found - total).norm() <= 1e-8 * total.norm()


@pytest.mark.parametrize(
    ("strategy", "steps", "read"),
    [
        ("hypergrad = unroll", 3, " + 0 * sumsq(w - meta.w)"),
        ("", 3, ""),
        ("", 25, ""),  # more than `auto` unrolls where there is another way
    ],
)
def test_maml_through_a_copied_start(strategy, steps, read):
    """Unrolled steps from a copy of meta's variables, against differences; `auto` sees that nothing
    else depends on them.
    """
    settings = f"optimizer = sgd(lr = 0.05)  steps = {steps}  start = copy(meta.w)  {strategy}"
    text = TASKS.replace("SETTINGS", settings).replace(" + sumsq(w - meta.w)", read)
    run = start(text, {"tasks": tasks()})
    assert run.plan.level("adapt").strategy.name == "unroll"
    found = run.hypergrad("meta")["w"]
    expected = torch.empty_like(found)
    for i in range(3):
        e = torch.zeros_like(found)
        e[i] = 1e-5
        losses = []
        for w in (run["meta"].w + e, run["meta"].w - e):
            other = start(text, {"tasks": tasks()})
            other["meta"].assign(w=w)
            losses.append(float(other.hypergrad("meta").loss))
        expected[i] = (losses[0] - losses[1]) / 2e-5

    assert (found - expected).norm() <= 1e-7 * expected.norm()


def test_tasks_change_with_the_level_above():
    run = start(
        TASKS.replace("SETTINGS", "optimizer = sgd(lr = 0.1)  steps = 5  start = reset"),
        {"tasks": tasks()},
    )
    seen = []
    for _ in range(2):
        run.step()
        seen.append(run.tasks["adapt"].rows.tolist())

    assert sorted(seen[0] + seen[1]) == list(range(8))


def test_truncation_cuts_the_start_off():
    """Nothing but the copied start depends on meta, and its updates are forgotten."""
    settings = "optimizer = sgd(lr = 0.05)  steps = 3  start = copy(meta.w)"
    settings += "  hypergrad = unroll(truncate = 2)"
    text = TASKS.replace("SETTINGS", settings).replace(
        " + sumsq(w - meta.w)", " + 0 * sumsq(w - meta.w)"
    )
    found = start(text, {"tasks": tasks()}).hypergrad("meta")["w"]

    assert float(found.abs().max()) == 0.0


@pytest.mark.parametrize("opt", [0, 1])
def test_params_leaves_out_what_it_is_told_to(opt):
    text = TRAIN.replace("SETTINGS", "optimizer = sgd(lr = 0.2)  steps = 1").replace(
        "WEIGHT", "exp(0 * tune.log_wd)"
    )
    text = text.replace("mean(xent(net(train.x), train.y)) + ", "")
    text = text.replace("params(net)", 'params(net, except = "*.bias")')
    run = start(text, {"all": classification()}, {"net": Plain}, opt=opt)
    before = {n: p.detach().clone() for n, p in run["fit"].net.named_parameters()}
    run.step()
    for name, p in run["fit"].net.named_parameters():
        expected = before[name] if name.endswith("bias") else 0.6 * before[name]
        torch.testing.assert_close(p.detach(), expected)
