"""What a layer keeps, refuses and says: state, precision, mistakes, reports, its own gradcheck."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

import bettyc
from bettyc.failures import DivergedError, InputError, RunError

F64 = torch.float64
TEXT = """
dim n, d
data train : { x: real[n, d], y: int<2>[n] } from memory()
level fit {
  var w : real[d] = zeros
  minimize mean(bce(train.x @ w, train.y)) + 0.1 * sum(tune.decay * w^2)
  optimizer = adam(lr = 0.1)
  steps = 4
}
level tune {
  var decay : real[d] in positive = fill(0.5)
  minimize sum(fit*.w^2)
  optimizer = sgd(lr = 0.1)
}
run { steps = 2 }
"""


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


X, Y = normal(12, 3, seed=0), (normal(12, seed=1) > 0).long()


def plan(**set: Any) -> bettyc.CompiledPlan:
    values = {k.replace("__", "."): v for k, v in set.items()}
    return bettyc.loads(TEXT, set=values).compile({"train": {"x": X, "y": Y}})


def decay(dtype: torch.dtype = torch.float32) -> Tensor:
    return normal(3, seed=2).exp().to(dtype).requires_grad_()


def test_a_warm_layer_goes_on_where_it_ended() -> None:
    """Two calls of four steps are torch's eight steps of Adam."""
    layer = plan(run__precision="fp64").layer("fit", warm=True)
    d = decay(F64)

    for _ in range(2):
        w = layer(decay=d).w

    p = torch.nn.Parameter(torch.zeros(3, dtype=F64))
    optimizer = torch.optim.Adam([p], lr=0.1)
    for _ in range(8):
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(X @ p, Y.double())
        (loss + 0.1 * (d.detach() * p.square()).sum()).backward()
        optimizer.step()
    torch.testing.assert_close(w, p, check_stride=False)


def test_a_layer_that_is_not_warm_is_a_function() -> None:
    layer = plan().layer("fit", warm=False)

    assert torch.equal(layer(decay=decay()).w, layer(decay=decay()).w)


def test_state_continues_with_the_same_bits() -> None:
    layer = plan().layer("fit")
    layer(decay=decay())
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    others = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    expected = layer(decay=decay()).w

    file.seek(0)
    fresh = plan().layer("fit")
    fresh.load_state_dict(torch.load(file, weights_only=True))

    assert all(torch.equal(one(decay=decay()).w, expected) for one in (fresh, *others))
    assert not torch.equal(plan().layer("fit")(decay=decay()).w, expected)


def test_state_of_another_layer_is_refused() -> None:
    text = "level fit { var w : real[7] = zeros\n minimize sumsq(w - 1) }\nrun { steps = 1 }"
    other = bettyc.loads(text).compile().layer("fit")

    with pytest.raises(InputError) as caught:
        plan().layer("fit").load_state_dict(other.state_dict())

    assert [d.code for d in caught.value.diagnostics] == ["MLO0803"]


def test_a_layer_changes_its_precision() -> None:
    layer = plan().layer("fit")
    model = torch.nn.ModuleDict({"layer": layer, "head": torch.nn.Linear(3, 1)})

    single = layer(decay=decay()).w
    model.to(F64)
    double = layer(decay=decay(F64)).w
    w = torch.autograd.grad(double.sum(), d := decay(F64), allow_unused=True)[0]

    assert (single.dtype, double.dtype, layer.dtype) == (torch.float32, F64, F64)
    assert w is None
    assert d.dtype == F64
    expected = plan(run__precision="fp64").layer("fit")
    expected(decay=decay(F64))
    torch.testing.assert_close(double, expected(decay=decay(F64)).w, rtol=1e-5, atol=1e-6)
    assert model.float().layer(decay=decay()).w.dtype == torch.float32
    with pytest.raises(InputError, match="float16"):
        model.half()


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        ({}, "MLO0507", "`tune.decay` is not given"),
        ({"decay": torch.ones(4)}, "MLO0507", "shape 4"),
        ({"decay": torch.ones(3, dtype=F64)}, "MLO0507", "is float64"),
        ({"decay": torch.ones(3, dtype=torch.int64)}, "MLO0507", "is int64"),
        ({"decay": torch.ones(3, device="meta")}, "MLO0507", "is on meta"),
        ({"decay": -torch.ones(3)}, "MLO0507", "holds -1"),
        ({"decay": torch.full((3,), torch.nan)}, "MLO0507", "not finite"),
        ({"decay": 0.1}, "MLO0507", "is a float"),
        ({"decya": torch.ones(3)}, "MLO0210", "decya"),
        ({"decay": torch.ones(3), "tune.decay": torch.ones(3)}, "MLO0204", "tune.decay"),
        ({"decay": torch.ones(3), "train": {"x": X.float()}}, "MLO0507", "`train.y` is not given"),
        (
            {"decay": torch.ones(3), "train": {"x": X[:5].float(), "y": Y[:5]}},
            "MLO0507",
            "`train.x` has shape 5 x 3",
        ),
        ({"decay": torch.ones(3), "train": {"x": X.float(), "y": Y + 1}}, "MLO0507", "holds 2"),
        (
            {"decay": torch.ones(3), "train": {"x": X.float(), "y": Y.float()}},
            "MLO0507",
            "`train.y` is float32",
        ),
    ],
)
def test_mistakes_have_a_code(inputs: dict[str, Any], code: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        plan().layer("fit")(inputs)

    assert [d.code for d in caught.value.diagnostics] == [code]


def test_a_level_that_is_not_there() -> None:
    with pytest.raises(InputError) as caught:
        plan().layer("fti")

    (found,) = caught.value.diagnostics
    assert found.code == "MLO0201"
    assert "fit" in found.notes[0].text


@pytest.mark.parametrize("strategy", ["single_loop", "penalty(rule = bome)"])
def test_strategies_that_move_more_than_the_level_are_refused(strategy: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(fit__hypergrad=strategy, fit__steps=1).layer("fit")

    assert [d.code for d in caught.value.diagnostics] == ["MLO0602"]


def test_a_solve_that_diverges_says_so() -> None:
    layer = plan(fit__optimizer="sgd(lr = 1e30)", fit__steps=50).layer("fit")

    with pytest.raises(DivergedError, match="`fit`"):
        layer(decay=decay())


def test_data_that_are_written_to_before_the_backward_pass() -> None:
    layer = plan().layer("fit")
    x = X.float()
    w = layer(decay=decay(), train={"x": x, "y": Y}).w
    x += 1

    with pytest.raises(RunError, match=r"`train\.x` was written to"):
        w.sum().backward()


def test_the_report_says_how_the_solve_went() -> None:
    layer = plan(run__precision="fp64", fit__hypergrad="cg(tol = 1e-10)").layer("fit")
    d = decay(F64)
    assert layer.report is None

    out = layer(decay=d)

    assert layer.report is out.report
    assert out.report.updates == 4
    assert out.report.backward == ()
    w = out.w.detach().requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(X @ w, Y.double())
    loss = loss + 0.1 * (d.detach() * w.square()).sum()
    (slope,) = torch.autograd.grad(loss, w)
    assert out.report.loss == pytest.approx(loss.item())
    assert out.report.grad_norm == pytest.approx(slope.norm().item())
    out.w.sum().backward()
    (solve,) = out.report.backward
    assert (solve.level, solve.strategy, solve.converged) == ("fit", "cg", True)


def test_gradcheck_finds_good_and_bad_derivatives() -> None:
    good = plan(fit__optimizer="newton(tol = 1e-12)", fit__hypergrad="cg(tol = 1e-12)")
    bad = plan(fit__optimizer="sgd(lr = 0.1)", fit__hypergrad="one_step")
    data = {"x": X.float().requires_grad_(), "y": Y}

    rows = good.layer("fit").gradcheck(decay=decay(), train=data, against=("differences", "O0"))
    rough = bad.layer("fit").gradcheck(decay=decay(), against=("unroll",))

    assert {(r.variable, r.reference) for r in rows} == {
        (v, r) for v in ("tune.decay", "train.x") for r in ("differences", "O0")
    }
    assert max(r.relative_error for r in rows) < 1e-6
    assert max(r.relative_error for r in rough) > 0.1


def test_what_a_layer_says_about_itself() -> None:
    layer = plan().layer("fit")

    assert layer.inputs == {"tune.decay": (3,)}
    assert layer.data == {"train.x": (12, 3), "train.y": (12,)}
    assert torch.equal(layer.initial()["tune.decay"], torch.full((3,), 0.5))
    assert repr(layer) == "Layer(fit, tune.decay: [3])"
    assert list(layer.parameters()) == []
    with pytest.raises(AttributeError, match="no variable `v`; there are w"):
        _ = layer(decay=decay()).v
