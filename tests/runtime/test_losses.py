"""Losses of steps taken in one call: computed when they are read, and then what -O0 says."""

from __future__ import annotations

import pytest
from test_one_pass import PROGRAM, VECTOR, data
from toys import start

from bettyc.failures import RunError
from bettyc.kernels import dispatch, native
from bettyc.runtime.loop import Later

LOSS = "mean(bce(train.x @ w, train.b)) + 0.5 * exp(tune.log_l2) * sumsq(w)"


@pytest.fixture(autouse=True)
def only_native():
    if native.library() is None:
        pytest.skip(native.reason())
    with dispatch.use("auto"):
        yield


def begun(opt=1, run="steps = 3", lr="0.05"):
    text = PROGRAM.replace("VARIABLES", VECTOR).replace("LOSS", LOSS).replace("READ", "fit*.w")
    text = text.replace("run { steps = 3", f"run {{ {run}").replace("lr = 0.05", f"lr = {lr}")
    return start(text, data(), opt=opt)


def test_are_computed_when_read_and_agree_with_plain_autograd(monkeypatch):
    computed = []
    original = Later.detach
    monkeypatch.setattr(Later, "detach", lambda self: computed.append(1) or original(self))
    run, plain = begun(run="steps = 4 eval = every(4)"), begun(0, run="steps = 4 eval = every(4)")
    outputs = [run.step() for _ in range(3)]
    assert not computed
    assert "fit" in outputs[0].loss
    assert not computed
    for out in outputs:  # read late, of points long left
        want = plain.step().loss
        assert dict(out.loss) == {k: pytest.approx(v, rel=1e-9) for k, v in want.items()}
    assert len(computed) == 3
    assert run.step().loss["fit"] == pytest.approx(plain.step().loss["fit"], rel=1e-9)


def test_numbers_that_are_not_finite_are_found_unread():
    run = begun(run="steps = 9 eval = every(9)", lr="1e300")
    with pytest.raises(RunError, match="level `fit`"):
        run.step()
