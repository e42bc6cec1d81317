"""The Python interface, as its documentation promises it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bettyc

TEXT = """
dim n, m, d
data train : { x: real[n, d], y: real[n] } from npz("train.npz")
data val   : { x: real[m, d], y: real[m] } from npz("val.npz")
param lr : real in positive = 0.1
level fit {
  var w : real[d] = zeros
  minimize mean((train.x @ w - train.y)^2) + sum(exp(tune.a) * w^2)
}
level tune {
  var a : real[d] = zeros
  minimize mean((val.x @ fit*.w - val.y)^2)
  optimizer = sgd(lr = lr)
}
run { steps = 2 }
"""


def rows(count: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(count)
    return {"x": torch.randn(count, 3, generator=g), "y": torch.randn(count, generator=g)}


def test_public_names() -> None:
    assert sorted(bettyc.__all__) == sorted(set(bettyc.__all__))
    assert all(getattr(bettyc, name) is not None for name in bettyc.__all__)


def test_data_in_memory_binds_the_dims() -> None:
    plan = bettyc.loads(TEXT).compile(data={"train": rows(9), "val": rows(5)})

    assert dict(plan.plan.model.dims) == {"n": 9, "m": 5, "d": 3}


def test_mock_needs_no_data() -> None:
    run = bettyc.loads(TEXT, mock={"d": 4}).compile().start()

    assert len(list(run)) == 2
    assert run["fit"].w.shape == (4,)


def test_errors_carry_diagnostics() -> None:
    program = bettyc.loads(TEXT.replace("fit*.w", "fit.w"), filename="forgotten.mlo")

    with pytest.raises(bettyc.MloError, match=r"forgotten\.mlo:12") as caught:
        program.compile()

    assert [d.code for d in caught.value.diagnostics] == ["MLO0319"]


def test_missing_data_is_an_mlo_error() -> None:
    with pytest.raises(bettyc.MloError) as caught:
        bettyc.loads(TEXT).compile()

    assert {d.code for d in caught.value.diagnostics} == {"MLO0506"}


def test_values_are_set_in_the_languages_syntax() -> None:
    program = bettyc.loads(
        TEXT, set={"lr": 0.5, "tune.optimizer": "adam(lr = 0.25)", "run.steps": 1}
    )

    info = program.checked.model
    assert info is not None
    assert info.level("tune").setting("optimizer").get("lr") == 0.25  # type: ignore[union-attr]
    assert info.setting("steps") == 1


def test_a_plan_written_and_read_runs_the_same(tmp_path: Path) -> None:
    data = {"train": rows(9), "val": rows(5)}
    plan = bettyc.loads(TEXT).compile(data=data)
    plan.save(tmp_path / "p.mlop")
    read = bettyc.load_plan(tmp_path / "p.mlop")

    assert read.to_json() == plan.to_json()
    first, second = plan.start(seed=3), read.start(seed=3, data=data)
    first.to_end()
    second.to_end()
    assert torch.equal(first["tune"].a, second["tune"].a)


def test_a_file_that_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / "p.mlop").write_text('{"format": 1, "is": "Span"}')

    with pytest.raises(ValueError, match=r"plan|fields"):
        bettyc.load_plan(tmp_path / "p.mlop")


def test_imported_texts() -> None:
    text = (
        'import "losses.mlo" as m\nlevel fit { var w : real = 0  minimize m.squared(w - m.goal) }'
    )
    losses = "param goal : real = 3\ndef squared(x) = x^2"
    run = bettyc.loads(text, imports={"losses.mlo": losses}).compile().start()
    run.step()

    assert run["fit"].w.item() == pytest.approx(3.0)
