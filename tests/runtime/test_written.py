"""What `--emit python` prints is what runs, to the letter, and it runs by itself."""

from __future__ import annotations

import linecache
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bettyc
from bettyc.cli.python import source

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ["logistic_hpo", "hpo_of_hpo", "ridge_hpo", "elastic_net", "hyper_cleaning", "dro"]
SOLVED = """
dim n, d
data train : { x: real[n, d], y: real[n] } from memory()
level fit {
  var w : real[d] = fill(0.1)
  var s : real = 1.0
  minimize mean((train.x @ w + s - train.y)^2) + s^2 + 0.5 * sum(exp(tune.a) * w^2)
  optimizer = sgd(lr = 0.05)
  steps = 5
  hypergrad = HOW
}
level tune {
  var a : real[d] = zeros
  minimize sumsq(fit*.w - 0.3) + 0.01 * sumsq(a)
  optimizer = sgd(lr = 0.1)
}
run { steps = 2  precision = fp64 }
"""


@pytest.fixture(autouse=True)
def forget():
    linecache.clearcache()


def executed() -> dict[str, str]:
    """The emitted derivative functions that a run has compiled, by name."""
    found = {}
    for name, entry in linecache.cache.items():
        made = re.fullmatch(r"<bettyc \w+\.(\w+)>", name.replace("<text>", "text"))
        text = "".join(entry[2]) if made and len(entry) > 1 else ""
        if made and f"def {made[1]}_inputs(" in text:
            found[made[1]] = text
    return found


def data() -> dict[str, dict[str, torch.Tensor]]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(40, 4, generator=g, dtype=torch.float64)
    return {"train": {"x": x, "y": x.sum(1) + torch.randn(40, generator=g, dtype=torch.float64)}}


def solved(how: str) -> bettyc.CompiledPlan:
    text = SOLVED.replace("HOW", how)
    return bettyc.loads(text, filename="solved.mlo").compile(data=data())


@pytest.mark.parametrize("name", NAMES)
def test_examples_run_what_is_printed(name):
    plan = bettyc.load(EXAMPLES / f"{name}.mlo").compile()
    plan.start(seed=0).step()
    ran = executed()
    linecache.clearcache()
    printed = source(plan.plan)
    assert ran
    assert {n: t for n, t in ran.items() if t.strip("\n") not in printed} == {}


@pytest.mark.parametrize("how", ["cg", "exact", "finite_diff(eps = 0.01)", "one_step", "neumann"])
def test_every_kind_of_strategy_runs_what_is_printed(how):
    plan = solved(how)
    plan.start(seed=0).step()
    ran = executed()
    printed = source(plan.plan)
    assert {"fit_slope", "tune_gradient"} <= ran.keys()
    assert {n: t for n, t in ran.items() if t.strip("\n") not in printed} == {}


def test_it_runs_by_itself_and_gives_the_derivatives(tmp_path):
    """In a process of its own; the expected numbers are autograd's, of the printed objective."""
    (tmp_path / "solved.py").write_text(source(solved("cg").plan), encoding="utf-8")
    torch.save(data(), tmp_path / "data.pt")
    script = """
import torch, types, solved
torch.set_default_dtype(torch.float64)
train = torch.load("data.pt")["train"]
frame = types.SimpleNamespace(columns={("train", "x"): train["x"], ("train", "y"): train["y"]})
theta = {"fit": torch.tensor([0.1, -0.2, 0.3, 0.4, 0.5]), "tune": torch.arange(4) / 10}

def objective(own, a):
    given = dict(fit_w=own[:4], fit_s=own[4], tune_a=a)
    given |= {f"train_{k}": v for k, v in train.items()}
    code = solved.fit.__code__
    return solved.fit(*(given[n] for n in code.co_varnames[:code.co_argcount]))

own = theta["fit"].clone().requires_grad_()
value = objective(own, theta["tune"])
(want,) = torch.autograd.grad(value, own, create_graph=True)
out = {"fit": torch.empty(5)}
loss = solved.fit_gradient(*solved.fit_gradient_inputs(theta, frame, out=out))
torch.testing.assert_close(loss, value.detach())
torch.testing.assert_close(out["fit"], want.detach())
held = solved.fit_held(*solved.fit_held_inputs(theta, frame))
held = held if isinstance(held, tuple) else (held,)
solved.fit_slope(*solved.fit_slope_inputs(theta, frame, held, out=out))
torch.testing.assert_close(out["fit"], want.detach())
v = torch.tensor([1.0, -1.0, 2.0, 0.5, -0.3])
fixed = solved.fit_fixed(*solved.fit_fixed_inputs(theta, frame))
fixed = fixed if isinstance(fixed, tuple) else (fixed,)
solved.fit_hessian_product(*solved.fit_hessian_product_inputs(theta, frame, fixed, v, out))
torch.testing.assert_close(out["fit"], torch.autograd.grad(want, own, v)[0])
print("as autograd")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "as autograd", done.stderr


def test_lines_are_shown_in_tracebacks():
    """linecache has the text of every emitted function under the name that its code carries."""
    run = solved("cg").start(seed=0)
    run.step()
    form = run.stages["fit"].objective.closed
    assert form is not None
    written = form.write_gradients(("fit",))
    code = written.call.__code__
    line = linecache.getline(code.co_filename, code.co_firstlineno)
    assert line.startswith("def fit_gradient(")
