"""A level as a module: its values against dense solves, its derivatives against finite
differences, closed forms and loops written by hand.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import bettyc
from bettyc.strategies import STRATEGIES

F64 = torch.float64


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


RIDGE = """
dim n, m, d
data train : { x: real[n, d], y: real[n] } from memory()
data val   : { x: real[m, d], y: real[m] } from memory()
level fit {
  var w : real[d] = zeros
  var b : real = 0
  minimize mean((train.x @ w + b - train.y)^2) + sum(tune.decay * w^2) + tune.bias * b^2
}
level tune {
  var decay : real[d] in positive = fill(0.1)
  var bias : real in positive = 0.2
  minimize mean((val.x @ fit*.w + fit*.b - val.y)^2)
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  precision = fp64 }
"""
TRAIN = {"x": normal(9, 3, seed=0), "y": normal(9, seed=1)}
VAL = {"x": normal(5, 3, seed=2), "y": normal(5, seed=3)}


def ridge(set: dict[str, Any] | None = None, opt: int = 1) -> bettyc.CompiledPlan:
    return bettyc.loads(RIDGE, set=set).compile({"train": TRAIN, "val": VAL}, opt=opt)


def dense_ridge(decay: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The minimiser by the normal equations, differentiable by torch alone."""
    n, d = x.shape
    z = torch.cat([x, x.new_ones(n, 1)], 1)
    h = z.T @ z / n + torch.diag(torch.cat([decay, bias[None]]))
    w = torch.linalg.solve(h, z.T @ y / n)
    return w[:d], w[d]


def point(*seeds: int) -> tuple[Tensor, Tensor]:
    decay, bias = normal(3, seed=seeds[0]).exp() / 5, normal(seed=seeds[1]).exp() / 5
    return decay.requires_grad_(), bias.requires_grad_()


def test_the_response_and_all_derivatives_are_those_of_the_dense_solve() -> None:
    layer = ridge().layer("fit")
    decay, bias = point(4, 5)
    x, y = (TRAIN[k].clone().requires_grad_() for k in "xy")

    out = layer(decay=decay, bias=bias, train={"x": x, "y": y})

    w, b = dense_ridge(decay, bias, x, y)
    torch.testing.assert_close(out.w, w)
    torch.testing.assert_close(out.b, b)
    c = normal(3, seed=6)
    inputs = [decay, bias, x, y]
    found = torch.autograd.grad(c @ out.w + out.b.square(), inputs)
    expected = torch.autograd.grad(c @ w + b.square(), inputs)
    torch.testing.assert_close(found, expected)


def test_gradcheck_of_torch_on_a_quadratic() -> None:
    layer = ridge().layer("fit")

    def response(decay: Tensor, bias: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        out = layer({"tune.decay": decay, "tune.bias": bias}, train={"x": x, "y": TRAIN["y"]})
        return out.w, out.b

    assert torch.autograd.gradcheck(response, (*point(4, 5), TRAIN["x"].clone().requires_grad_()))


LOGISTIC = """
dim n, d
data train : { x: real[n, d], y: real[n] } from memory()
level fit {
  var w : real[d] = zeros
  minimize mean(bce(train.x @ w, train.y)) + sum(tune.decay * w^2)
  optimizer = newton(tol = 1e-12)
}
level tune {
  var decay : real[d] in positive = fill(0.1)
  minimize sum(fit*.w^2)
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  precision = fp64 }
"""


def test_gradcheck_of_torch_on_a_logistic_regression() -> None:
    x, y = normal(20, 3, seed=0), (normal(20, seed=1) > 0).double()
    program = bettyc.loads(LOGISTIC, set={"fit.hypergrad": "cg(tol = 1e-12)"})
    layer = program.compile({"train": {"x": x, "y": y}}).layer("fit")

    def response(decay: Tensor, x: Tensor) -> Tensor:
        return layer(decay=decay, train={"x": x, "y": y}).w  # type: ignore[no-any-return]

    decay = normal(3, seed=2).exp().requires_grad_()
    assert torch.autograd.gradcheck(response, (decay, x.clone().requires_grad_()))
    w = response(decay.detach(), x)
    slope = x.T @ (torch.sigmoid(x @ w) - y) / 20 + 2 * decay.detach() * w
    assert float(slope.norm()) < 1e-10


# Strategies whose answer is the implicit derivative, with options and an optimizer that make it so.
SGD = {"fit.optimizer": "sgd(lr = 0.2)", "fit.steps": 400}
EXACT: dict[str, dict[str, Any]] = {
    "exact": {},
    "cg": {"fit.hypergrad": "cg(tol = 1e-12)"},
    "minres": {"fit.hypergrad": "minres(tol = 1e-12)"},
    "gmres": {"fit.hypergrad": "gmres(tol = 1e-12)"},
    "neumann": {"fit.hypergrad": "neumann(terms = 400)"},
    "nystrom": {"fit.hypergrad": "nystrom(rank = 4, damping = 1e-6)"},
    "unroll": {**SGD, "fit.hypergrad": "unroll", "fit.start": "reset"},
    "forward": {**SGD, "fit.hypergrad": "forward", "fit.start": "reset"},
    "fixed_point": {**SGD, "fit.hypergrad": "fixed_point(iters = 400, tol = 1e-12)"},
    "penalty": {**SGD, "fit.hypergrad": "penalty(weight = 1e7, steps = 400)"},
}
# Those that approximate it: the layer's answer is the plan's own.
ROUGH: dict[str, dict[str, Any]] = {
    "one_step": {**SGD, "fit.hypergrad": "one_step"},
    "finite_diff": {**SGD, "fit.hypergrad": "finite_diff"},
    "sama": {**SGD, "fit.hypergrad": "sama"},
    "zeroth_order": {
        **SGD,
        "fit.steps": 5,
        "fit.hypergrad": "zeroth_order",
        "fit.start": "reset",
    },
    "none": {**SGD, "fit.hypergrad": "none"},
}
REFUSED = {"danskin", "score", "single_loop"}


def test_every_strategy_has_a_row() -> None:
    assert set(STRATEGIES) == {*EXACT, *ROUGH, *REFUSED, "auto"}


def validation(w: Tensor, b: Tensor) -> Tensor:
    return (VAL["x"] @ w + b - VAL["y"]).square().mean()


@pytest.mark.parametrize("name", EXACT)
def test_strategies_give_the_implicit_derivative(name: str) -> None:
    layer = ridge(EXACT[name]).layer("fit")
    decay, bias = point(4, 5)

    out = layer(decay=decay, bias=bias)
    validation(out.w, out.b).backward()

    expected = torch.autograd.grad(
        validation(*dense_ridge(decay, bias, TRAIN["x"], TRAIN["y"])), [decay, bias]
    )
    assert decay.grad is not None
    assert bias.grad is not None
    torch.testing.assert_close((decay.grad, bias.grad), expected, rtol=1e-5, atol=1e-7)
    assert [r.strategy for r in layer.report.backward] == [name]  # type: ignore[union-attr]


@pytest.mark.parametrize("name", [*ROUGH, *EXACT])
def test_strategies_give_what_the_plan_gives(name: str) -> None:
    if name == "penalty":
        pytest.skip("a layer knows its loss to first order only; penalty(f2sa) uses more")
    plan = ridge({**ROUGH, **EXACT}[name])
    layer = plan.layer("fit")
    values = {k: v.requires_grad_() for k, v in layer.initial().items()}

    out = layer(values)
    found = torch.autograd.grad(
        validation(out.w, out.b), [*values.values()], allow_unused=True, materialize_grads=True
    )

    expected = plan.hypergrad("tune")  # in logarithms
    for (path, value), grad in zip(values.items(), found, strict=True):
        torch.testing.assert_close(grad * value.detach(), expected[path.removeprefix("tune.")])


def test_calls_may_be_differentiated_in_any_order() -> None:
    for name in ("exact", "unroll", "fixed_point"):
        layer = ridge(EXACT[name]).layer("fit")
        first, second = point(4, 5), point(6, 7)

        outs = [layer(decay=decay, bias=bias) for decay, bias in (first, second)]
        for (decay, bias), out in reversed(list(zip((first, second), outs, strict=True))):
            found = torch.autograd.grad(validation(out.w, out.b), [decay, bias], retain_graph=True)
            w = dense_ridge(decay, bias, TRAIN["x"], TRAIN["y"])
            expected = torch.autograd.grad(validation(*w), [decay, bias])
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
        both = torch.autograd.grad(outs[0].w.sum() * outs[1].w.sum(), [*first, *second])
        ws = [dense_ridge(*p, TRAIN["x"], TRAIN["y"])[0].sum() for p in (first, second)]
        expected = torch.autograd.grad(ws[0] * ws[1], [*first, *second])
        torch.testing.assert_close(both, expected, rtol=1e-5, atol=1e-7)


def test_each_call_is_unrolled_along_its_own_steps() -> None:
    """Two steps of momentum per call, the second call from where the first ended."""
    values = {
        "fit.optimizer": "sgd(lr = 0.1, momentum = 0.9)",
        "fit.steps": 2,
        "fit.hypergrad": "unroll",
    }
    layer = ridge(values).layer("fit", warm=True)
    points = [point(4, 5), point(6, 7)]
    outs = [layer(decay=decay, bias=bias) for decay, bias in points]

    p, v = torch.zeros(4, dtype=F64), torch.zeros(4, dtype=F64)
    z = torch.cat([TRAIN["x"], torch.ones(9, 1, dtype=F64)], 1)
    for (decay, bias), out in zip(points, outs, strict=True):
        p, v = p.detach(), v.detach()
        for _ in range(2):
            penalty = torch.cat([decay, bias[None]])
            v = 0.9 * v + 2 * z.T @ (z @ p - TRAIN["y"]) / 9 + 2 * penalty * p
            p = p - 0.1 * v
        torch.testing.assert_close(out.w, p[:3])
        expected = torch.autograd.grad(p.square().sum(), [decay, bias])
        value = out.w.square().sum() + out.b.square()
        torch.testing.assert_close(torch.autograd.grad(value, [decay, bias]), expected)


def test_a_loop_of_the_users_own_goes_where_the_run_goes() -> None:
    plan = ridge()
    run = plan.start()
    run.to_end()
    layer = plan.layer("fit")
    logs = [v.log().requires_grad_() for v in layer.initial().values()]
    optimizer = torch.optim.SGD(logs, lr=0.1)

    for _ in range(3):
        optimizer.zero_grad()
        out = layer(decay=logs[0].exp(), bias=logs[1].exp())
        validation(out.w, out.b).backward()
        optimizer.step()

    torch.testing.assert_close(logs[0].exp(), run["tune"].decay)
    torch.testing.assert_close(logs[1].exp(), run["tune"].bias)


@pytest.mark.parametrize("opt", [0, 1])
def test_the_modes_of_the_caller_change_nothing(opt: int) -> None:
    values = {"fit.optimizer": "sgd(lr = 0.2)", "fit.steps": 30, "fit.start": "reset"}
    layer = ridge(values, opt=opt).layer("fit")
    decay, bias = point(4, 5)
    expected = layer(decay=decay, bias=bias).w

    with torch.no_grad():
        silent = layer(decay=decay, bias=bias).w
    with torch.inference_mode():
        inference = layer(decay=decay.clone(), bias=bias.clone()).w
    with torch.autocast("cpu", torch.bfloat16):
        cast = layer(decay=decay, bias=bias).w

    assert expected.requires_grad
    assert not silent.requires_grad
    assert all(torch.equal(w, expected) for w in (silent, inference, cast))
    assert layer(decay=decay, bias=bias).w.requires_grad


def test_one_input_without_gradient_is_left_alone() -> None:
    layer = ridge().layer("fit")
    decay, bias = point(4, 5)

    out = layer(decay=decay.detach(), bias=bias)
    validation(out.w, out.b).backward()

    assert bias.grad is not None
    assert layer(decay=decay.detach(), bias=bias.detach()).w.requires_grad is False


def test_second_derivatives_are_refused() -> None:
    from bettyc.failures import InputError

    layer = ridge().layer("fit")
    decay, bias = point(4, 5)
    loss = layer(decay=decay, bias=bias).w.sum()

    (first,) = torch.autograd.grad(loss, [decay], create_graph=True)

    expected = torch.autograd.grad(
        dense_ridge(decay, bias, TRAIN["x"], TRAIN["y"])[0].sum(), [decay]
    )[0]
    torch.testing.assert_close(first.detach(), expected)
    with pytest.raises(InputError, match="second derivative") as caught:
        first.sum().backward()
    assert [d.code for d in caught.value.diagnostics] == ["MLO0709"]


THREE = """
level fit {
  var w : real[2] = zeros
  minimize 0.5 * sumsq(w - reg.c) + 0.1 * sum(w)^2 + prior.s * sum(w)
}
level reg {
  var c : real[2] = zeros
  minimize 0.5 * sumsq(fit*.w - 1) + prior.t * sumsq(c)
  optimizer = sgd(lr = 0.3)
  steps = 60
  hypergrad = cg(tol = 1e-13)
}
level prior {
  var s : real = 0.3
  var t : real in positive = 0.5
  minimize sumsq(fit*.w) + sum(reg*.c)
  optimizer = sgd(lr = 0.1)
}
run { steps = 1  precision = fp64 }
"""


def test_a_level_above_others_is_differentiated_with_them() -> None:
    layer = bettyc.loads(THREE).compile().layer("reg")

    def response(s: Tensor, t: Tensor) -> Tensor:
        return layer(s=s, t=t).c  # type: ignore[no-any-return]

    s, t = normal(seed=0).requires_grad_(), normal(seed=1).exp().requires_grad_()
    assert layer.inputs == {"prior.s": (), "prior.t": ()}
    assert torch.autograd.gradcheck(response, (s, t))
    # w = A^-1 (c - s 1) with A = I + 0.2 11^T; c minimises |w - 1|^2 / 2 + t |c|^2
    one, eye = torch.ones(2, dtype=F64), torch.eye(2, dtype=F64)
    inverse = torch.linalg.inv(eye + 0.2 * torch.outer(one, one))
    c = torch.linalg.solve(inverse @ inverse + 2 * t * eye, inverse @ (one + s * inverse @ one))
    torch.testing.assert_close(response(s, t), c)


def test_the_lowest_of_three_depends_on_both_levels_above() -> None:
    layer = bettyc.loads(THREE).compile().layer("fit")
    c, s = normal(2, seed=0).requires_grad_(), normal(seed=1).requires_grad_()

    w = layer({"reg.c": c}, s=s, t=torch.ones((), dtype=F64)).w
    found = torch.autograd.grad(w[0], [c, s])

    one, eye = torch.ones(2, dtype=F64), torch.eye(2, dtype=F64)
    inverse = torch.linalg.inv(eye + 0.2 * torch.outer(one, one))
    torch.testing.assert_close(w, inverse @ (c - s * one))
    torch.testing.assert_close(found, (inverse[0], -(inverse @ one)[0]))


MAML = """
extern module Net() : real[B, 2] -> real[B, 1] from "nowhere:Net"
dim n
data train : { x: real[n, 2], y: real[n] } from memory()
data other : { x: real[n, 2] } from memory()
level adapt {
  module net = Net()
  minimize mean((net(train.x)[:, 0] - train.y)^2)
  optimizer = sgd(lr = meta.rate)
  steps = 3
  start = copy(meta.net)
}
level meta {
  module net = Net()
  var rate : real in positive = 0.1
  minimize mean((adapt*.net(other.x)[:, 0] - 1)^2)
  optimizer = sgd(lr = 0.1)
}
run { steps = 1  precision = fp64 }
"""


def test_a_network_of_the_users_is_the_start_and_the_rate_is_learned() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))

    x, y = normal(6, 2, seed=0), normal(6, seed=1)
    program = bettyc.loads(MAML)
    plan = program.compile({"train": {"x": x, "y": y}, "other": {"x": -x}}, {"Net": build})
    layer = plan.layer("adapt")
    net = build().double()
    rate = torch.tensor(0.2, dtype=F64, requires_grad=True)

    adapted = layer(net=net, rate=rate).net
    loss = torch.func.functional_call(net, adapted, (x,)).square().mean()
    wanted = [rate, *net.parameters()]
    found = torch.autograd.grad(loss, wanted)

    values = dict(net.named_parameters())
    for _ in range(3):
        error = torch.func.functional_call(net, values, (x,))[:, 0] - y
        grads = torch.autograd.grad(error.square().mean(), [*values.values()], create_graph=True)
        moved = zip(values.items(), grads, strict=True)
        values = {k: v - rate * g for (k, v), g in moved}  # type: ignore[misc]
    expected = torch.func.functional_call(net, values, (x,)).square().mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected, wanted))


TASKS = """
dim S = 6, d = 3
extern source linear() : { support: { x: real[S, d], y: real[S] } } from "nowhere:linear"
data tasks from linear()
level adapt foreach t in tasks(batch = 4) {
  var w : real[d] = zeros
  minimize mean((t.support.x @ w - t.support.y)^2) + 0.5 * sumsq(w - meta.w0)
}
level meta {
  var w0 : real[d] = zeros
  minimize mean(sumsq(a*.w) for a in adapt)
  optimizer = adam(lr = 0.1)
}
run { steps = 1  precision = fp64 }
"""


class Linear:
    """Eight tasks."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {"support": {"x": normal(6, 3, seed=i), "y": normal(6, seed=i + 50)}}


def test_tasks_are_solved_together() -> None:
    layer = bettyc.loads(TASKS).compile(externs={"linear": Linear}).layer("adapt")
    w0 = normal(3, seed=0).requires_grad_()
    x, y = normal(4, 6, 3, seed=1).requires_grad_(), normal(4, 6, seed=2)

    w = layer(w0=w0, t={"support": {"x": x, "y": y}}).w
    c = normal(4, 3, seed=3)
    found = torch.autograd.grad((c * w).sum(), [w0, x])

    h = 2 * x.mT @ x / 6 + torch.eye(3, dtype=F64)
    rhs = 2 * (x.mT @ y[..., None])[..., 0] / 6 + w0
    expected = torch.linalg.solve(h, rhs)
    torch.testing.assert_close(w, expected)
    torch.testing.assert_close(found, torch.autograd.grad((c * expected).sum(), [w0, x]))
    assert layer(w0=w0).w.shape == (4, 3)  # the program's own tasks


ALONE = """
dim n, d
data train : { x: real[n, d], y: real[n] } from memory()
level fit {
  var w : real[d] = zeros
  minimize mean((train.x @ w - train.y)^2) + 0.1 * sumsq(w)
}
run { steps = 1  precision = fp64 }
"""


@pytest.mark.parametrize(
    "set",
    [
        {},
        {"fit.hypergrad": "minres(tol = 1e-12)"},
        {"fit.optimizer": "sgd(lr = 0.2)", "fit.steps": 300, "fit.start": "reset"},
    ],
)
def test_a_level_that_nothing_reads_is_a_function_of_its_data(set: dict[str, Any]) -> None:
    layer = bettyc.loads(ALONE, set=set).compile({"train": TRAIN}).layer("fit")
    x, y = (TRAIN[k].clone().requires_grad_() for k in "xy")

    w = layer(train={"x": x, "y": y, "unused": "ignored"}).w
    found = torch.autograd.grad(w.square().sum(), [x, y])

    h = x.T @ x / 9 + 0.1 * torch.eye(3, dtype=F64)
    expected = torch.linalg.solve(h, x.T @ y / 9)
    torch.testing.assert_close(w, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), [x, y]))


BATCHES = """
dim n, d
data all : { x: real[n, d], y: real[n] } from memory()
level fit {
  var w : real[d] = zeros
  draw b from all(batch = 4, shuffle = true)
  minimize mean((b.x @ w - b.y)^2) + tune.decay * sumsq(w)
  optimizer = sgd(lr = 0.05)
  steps = 2
  start = reset
  hypergrad = unroll
}
level tune {
  var decay : real in positive = 0.1
  minimize sumsq(fit*.w)
  optimizer = sgd(lr = 0.1)
}
run { steps = 1  precision = fp64 }
"""


def test_a_batch_of_the_users_takes_the_place_of_the_draw() -> None:
    layer = bettyc.loads(BATCHES).compile({"all": TRAIN}).layer("fit")
    decay = torch.tensor(0.3, dtype=F64, requires_grad=True)
    x, y = normal(4, 3, seed=0).requires_grad_(), normal(4, seed=1)

    w = layer(decay=decay, b={"x": x, "y": y}).w
    found = torch.autograd.grad(w.sum(), [decay, x])

    expected = torch.zeros(3, dtype=F64)
    for _ in range(2):
        slope = 2 * x.T @ (x @ expected - y) / 4 + 2 * decay * expected
        expected = expected - 0.05 * slope
    torch.testing.assert_close(w, expected)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), [decay, x]))
    own = [layer(decay=decay).w for _ in range(2)]
    assert not torch.equal(*own)  # new batches for every call


def test_maximised_levels_keep_their_sign() -> None:
    text = """
level up { var w : real = 0
  maximize a.x * w - w^2 }
level a { var x : real = 1
  minimize (up*.w - 1)^2
  optimizer = sgd(lr = 0.1) }
run { steps = 1  precision = fp64 }
"""
    layer = bettyc.loads(text).compile().layer("up")
    x = torch.tensor(3.0, dtype=F64, requires_grad=True)

    out = layer(x=x)

    assert out.w.item() == pytest.approx(1.5)
    assert torch.autograd.grad(out.w, x)[0].item() == pytest.approx(0.5)
    assert out.report.loss == pytest.approx(2.25)


def test_calls_of_large_levels_do_not_share_memory() -> None:
    """Steps of large levels overwrite their variables."""
    text = """
level low { var w : real[70000] = zeros
  minimize mean((w - up.x)^2)
  optimizer = sgd(lr = 7000)
  steps = 2
  hypergrad = cg(tol = 1e-12) }
level up { var x : real = 1
  minimize sumsq(low*.w)
  optimizer = sgd(lr = 0.1) }
run { steps = 1  precision = fp64 }
"""
    layer = bettyc.loads(text).compile().layer("low")

    outs = [layer(x=torch.tensor(v, dtype=F64)) for v in (0.5, 2.0)]

    first = 0.5 * (1 - 0.8**2)
    second = 2 + 0.8**2 * (first - 2)
    for out, w, x in zip(outs, (first, second), (0.5, 2.0), strict=True):
        torch.testing.assert_close(out.w, torch.full((70000,), w, dtype=F64))
        assert out.report.loss == pytest.approx((w - x) ** 2)


def test_a_batch_that_is_shared_with_the_level_above_is_new_in_each_call() -> None:
    text = """
dim n
data all : { x: real[n], z: real[n] } from memory()
draw b from all(batch = 4, shuffle = true)
level fit { var w : real = 0
  minimize mean((w - b.x)^2) + tune.a * w
  optimizer = sgd(lr = 0.5)
  start = reset
  hypergrad = unroll }
level tune { var a : real = 0
  minimize mean(b.z) * fit*.w
  optimizer = sgd(lr = 0.1) }
run { steps = 1  precision = fp64 }
"""
    columns = {"x": normal(40, seed=0), "z": normal(40, seed=1)}
    layer = bettyc.loads(text).compile({"all": columns}).layer("fit")
    a = torch.tensor(0.5, dtype=F64)

    ws = [layer(a=a).w for _ in range(10)]

    assert len({w.item() for w in ws}) == 10
    # ten batches of four are one epoch: w = mean(x) - a / 2 on average
    torch.testing.assert_close(torch.stack(ws).mean(), columns["x"].mean() - 0.25)
