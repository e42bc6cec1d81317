"""Losses of linear models become one pass over the data: found, and equal to autograd on -O0."""

from __future__ import annotations

import linecache
import re

import pytest
import torch
from toys import start

from bettyc.kernels import dispatch, native
from bettyc.kernels.one_pass import one_pass
from bettyc.kernels.rows import rows
from bettyc.runtime.passes import Curvature, Slope

PROGRAM = """
mlo 0.1
dim n, d, C = 3
data train : { x: real[n, d], y: real[n], c: int<C>[n], b: int<2>[n] } from memory()
data val : { x: real[n, d], y: real[n] } from memory()
level fit {
  VARIABLES
  minimize LOSS
  optimizer = sgd(lr = 0.05)
  steps = 6
  start = reset
  hypergrad = cg(iters = 4, tol = 1e-12, damping = 0.01)
}
level tune {
  var log_l2 : real = -2.0
  var log_wd : real[d] = fill(-1.5)
  var score : real[n] = fill(0.3)
  minimize mean((val.x @ READ - val.y)^2) + 0.01 * (log_l2^2 + sumsq(log_wd) + sumsq(score))
  optimizer = sgd(lr = 0.1)
}
run { steps = 3  precision = fp64 }
"""
VECTOR = "var w : real[d] = fill(0.1)"
MATRIX = "var W : real[d, C] = fill(0.1)"
L2 = " + 0.5 * exp(tune.log_l2) * sumsq(w)"
# name -> (variables, loss, whether slope and Hessian product are one pass and nothing else)
LOSSES = {
    "bce": (VECTOR, "mean(bce(train.x @ w, train.b))" + L2, True),
    "diagonal": (VECTOR, "mean(bce(train.x @ w, train.b)) + sum(exp(tune.log_wd) * w^2)", True),
    "squares": (VECTOR, "0.5 * mean((train.x @ w - train.y)^2)" + L2, True),
    "weighted squares": (
        VECTOR, "sum(sigmoid(tune.score) * (train.x @ w - train.y)^2) / n" + L2, True,
    ),
    "huber": (VECTOR, "mean(huber(train.x @ w, train.y))" + L2, True),
    "poisson": (VECTOR, "mean(exp(0.3 * (train.x @ w)) - train.y * (train.x @ w))" + L2, True),
    "squared hinge": (VECTOR, "mean(hinge(train.x @ w, train.b)^2)" + L2, True),
    "no penalty": (
        VECTOR, "mean((train.x @ w - train.y)^2) + 0.1 * tune.log_l2 * sum(w)", (False, True),
    ),
    "prox": (
        VECTOR, "mean(bce(train.x @ w, train.b)) + exp(tune.log_l2) * sumsq(w - tune.log_wd)",
        (False, True),
    ),
    "intercept": (
        VECTOR + "\n  var b : real = 0.0", "mean(bce(train.x @ w + b, train.b))" + L2, False,
    ),
    "xent": (MATRIX, "mean(xent(train.x @ W, train.c))" + L2.replace("w", "W"), True),
    "weighted xent": (
        MATRIX, "mean(sigmoid(tune.score) * xent(train.x @ W, train.c)) + 0.01 * sumsq(W)", True,
    ),
    "xent, intercepts": (
        MATRIX + "\n  var b : real[C] = zeros",
        "mean(xent(train.x @ W + b, train.c))" + L2.replace("w", "W"), False,
    ),
    "several outputs": (
        MATRIX, "mean(log1p((train.x @ W)^2)) + 0.05 * sumsq(W) * exp(tune.log_l2)", True,
    ),
}  # fmt: skip


def data(n=130, d=5):
    g = torch.Generator().manual_seed(11)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    y = torch.randn(n, generator=g, dtype=torch.float64)
    c = torch.randint(0, 3, (n,), generator=g)
    train = {"x": x, "y": y, "c": c, "b": c % 2}
    return {"train": train, "val": {"x": x.flip(0), "y": y.roll(1)}}


def begun(name, **options):
    variables, loss, _ = LOSSES[name]
    read = "fit*.w" if "var w" in variables else "fit*.W[0:d, 1]"
    text = PROGRAM.replace("VARIABLES", variables).replace("LOSS", loss).replace("READ", read)
    return start(text, data(), **options)


def written(kind):
    """The text of an emitted function of level fit."""
    (name,) = [n for n in linecache.cache if re.fullmatch(rf"<bettyc .*\.fit_{kind}>", n)]
    return "".join(linecache.cache[name][2])


@pytest.fixture(autouse=True)
def forget():
    linecache.clearcache()


@pytest.mark.parametrize("name", LOSSES)
def test_is_found_and_equals_autograd(name):
    whole = LOSSES[name][2]
    run, plain = begun(name), begun(name, opt=0)
    got, want = run.hypergrad("tune"), plain.hypergrad("tune")
    for key, value in want.items():
        assert torch.allclose(got[key], value, rtol=1e-9, atol=1e-12), key
    fit = run.stages["fit"]
    fit.own_gradient(fit.feed.current())  # steps that are one call have no use for it
    for kind in ("gradient", "slope", "hessian_product"):
        assert written(kind).count(" one_pass(") == 1, kind
    for kind in ("slope", "hessian_product"):
        last = written(kind).split(f"def fit_{kind}(")[1].split("\n\n")[0].strip().splitlines()
        alone = len(last) == 3 and last[1].strip().startswith("product = one_pass(")
        assert alone == (whole[kind != "slope"] if isinstance(whole, tuple) else whole), kind
    for out, expected in zip(run, plain, strict=True):
        assert out.loss["tune"] == pytest.approx(expected.loss["tune"], rel=1e-8)


@pytest.mark.parametrize("name", ["bce", "weighted xent"])
def test_steps_and_solves_are_single_calls(name, monkeypatch):
    """Where there is a compiler: one call of C for a row of steps, one for a solve."""
    if native.library() is None:
        pytest.skip(native.reason())
    calls = []
    for owner, method in ((Slope, "descend"), (Curvature, "solve")):
        original = getattr(owner, method)

        def spy(self, *args, original=original, method=method, **options):
            calls.append(method)
            return original(self, *args, **options)

        monkeypatch.setattr(owner, method, spy)
    with dispatch.use("auto"):
        run = begun(name)
        run.step()
    assert calls == ["descend", "solve"]
    with dispatch.use("torch"):
        other = begun(name)
        other.step()
    assert len(calls) == 2
    for key in ("log_l2", "log_wd", "score"):
        got, want = getattr(run["tune"], key), getattr(other["tune"], key)
        assert torch.allclose(got, want, rtol=1e-9), key


@pytest.mark.parametrize("name", LOSSES)
def test_the_plan_names_what_the_runtime_uses(name, monkeypatch):
    """A whole solve in one call where the plan says so, and nowhere else."""
    if native.library() is None:
        pytest.skip(native.reason())
    used = []
    original = Curvature.solve
    monkeypatch.setattr(
        Curvature,
        "solve",
        lambda self, b, **more: used.append("cg_pass") or original(self, b, **more),
    )
    with dispatch.use("auto"):
        run = begun(name)
        run.hypergrad("tune")
    kernels = run.plan.level("fit").kernels
    assert [(k.work, k.name) for k in kernels] == [
        ("product", "one_pass"), ("solve", used[0] if used else "cg_update"),
    ]  # fmt: skip
    assert "X = `train.x`" in kernels[0].reason
    assert begun(name, opt=0).plan.level("fit").kernels == ()
    assert run.plan.level("tune").kernels == ()


@pytest.mark.parametrize(
    ("loss", "product", "solve"),
    [
        ("sumsq(w - tune.log_wd) + mean(train.y)", "torch", "cg_update"),
        (
            "sumsq(train.x @ w - mean(train.x @ w)) + exp(tune.log_l2) * sumsq(w)",
            "torch", "cg_update",
        ),
    ],
)  # fmt: skip
def test_the_plan_says_what_is_no_pass(loss, product, solve):
    text = PROGRAM.replace("VARIABLES", VECTOR).replace("LOSS", loss).replace("READ", "fit*.w")
    kernels = start(text, data()).plan.level("fit").kernels
    assert [k.name for k in kernels] == [product, solve]


def test_products_with_the_data_alone():
    """X V and all functions of its rows that are needed: one pass each before and after a solve."""
    begun("weighted xent").hypergrad("tune")
    for kind in ("fixed", "cross"):
        assert written(kind).count(" one_pass(") == 1, kind
        assert "result=None" in written(kind)
        assert " @ train_x" not in written(kind)


@pytest.mark.parametrize(
    "loss",
    [
        "mean((train.x @ w - mean(train.x @ w))^2) + tune.log_l2 * sum(w)",  # rows meet each other
        "mean(softplus(train.x @ w)) + tune.log_l2 * sum(w) + sumsq(cumsum(train.x @ w))",
    ],
)
def test_what_is_no_function_of_rows_is_left_alone(loss):
    text = PROGRAM.replace("VARIABLES", VECTOR).replace("LOSS", loss).replace("READ", "fit*.w")
    text = text.replace("cg(iters = 4, tol = 1e-12, damping = 0.01)", "minres(tol = 1e-9)")
    run, plain = start(text, data()), start(text, data(), opt=0)
    got, want = run.hypergrad("tune"), plain.hypergrad("tune")
    for key, value in want.items():
        assert torch.allclose(got[key], value, rtol=1e-7, atol=1e-12), key
    assert written("slope").count("@rows(") == written("slope").count("result=None")


def classes(n, d, **options):
    """The gradient of cross-entropy, which C would compute at -O2 where the data are small."""
    text = PROGRAM.replace("VARIABLES", MATRIX).replace("READ", "fit*.W[0:d, 1]")
    text = text.replace("LOSS", LOSSES["xent"][1]).replace("steps = 3 ", "steps = 900 ")
    run = start(text, data(n, d), **options)
    fit = run.stages["fit"]
    loss, grad = fit.own_gradient(fit.feed.current())
    return loss, grad, written("gradient")


def test_large_data_are_read_once_for_loss_and_gradient():
    """Also at -O2: a function in C with two calls of BLAS took three times as long."""
    loss, grad, text = classes(7000, 60, opt=2)
    assert text.count(" one_pass(") == 1
    assert '"logsumexp z"' in text  # the loss of a row is kept, not the row
    assert '"one_hot' in text
    assert '"where' in text  # 0 * inf is no number
    want_loss, want, _ = classes(7000, 60, opt=0)
    assert float(loss) == pytest.approx(float(want_loss), rel=1e-12)
    assert torch.allclose(grad, want, rtol=1e-9, atol=1e-14)


def test_a_loss_of_infinite_logits_is_torch_s():
    """By the sum of labels times logits it would not be a number."""
    v = torch.tensor([[-float("inf"), 1.0, 2.0]], dtype=torch.float64)
    x = torch.tensor([[1.0], [0.5]], dtype=torch.float64)
    lines = ("logsumexp z", "one_hot d1", "where %2 z 0.0", "sum %3", "sub %1 %4")

    @rows(*lines, data=("labels",), result=None, keep=("%5",))
    def loss(z, d1):
        return torch.nn.functional.cross_entropy(z, d1, reduction="none")

    for labels in (torch.tensor([1, 2]), torch.tensor([0, 0])):
        for mode in ("auto", "torch"):
            with dispatch.use(mode):
                got = one_pass(x, v, loss, labels)
            want = torch.nn.functional.cross_entropy(x @ v, labels, reduction="none")
            assert torch.equal(torch.isnan(got), torch.isnan(want))
            assert torch.allclose(got, want, equal_nan=True), mode
