"""A level whose batches are those of a level above can be solved for each of them."""

from __future__ import annotations

import pytest
import torch

import bettyc
from bettyc.api import MloError

TEXT = """
dim B = 12, d = 3
extern source points(at: real, count: int) : { x: real[B, d], y: real[B] } from "nowhere:points"
draw b from points(at = top.a, count = B)

level fit {
  var w : real[d] = zeros
  minimize mean((b.x @ w - b.y - top.a)^2) + sumsq(w)
  optimizer = exact
  hypergrad = exact
}

level top {
  var a : real = 0.5
  minimize sumsq(fit*.w - 1) + 0 * mean(b.y)
  optimizer = sgd(lr = 0.1)
}

run { steps = 4  precision = fp64 }
"""


def points(at: torch.Tensor, count: int) -> dict[str, torch.Tensor]:
    return {
        "x": torch.randn(count, 3, dtype=torch.float64),
        "y": at + torch.arange(count).double() / 10,
    }


def test_each_batch_is_solved_and_differentiated() -> None:
    """By normal equations: w = A (y + a 1), dw/da = A 1, for the batch of the moment."""
    drawn = []

    def kept(at: torch.Tensor, count: int) -> dict[str, torch.Tensor]:
        drawn.append(points(at, count))
        return drawn[-1]

    run = bettyc.loads(TEXT).compile(externs={"points": kept}).start(seed=0)
    for _ in range(4):
        a = run["top"].a.clone()
        run.step()
        x, y = drawn[-1]["x"], drawn[-1]["y"]
        inverse = torch.linalg.solve(x.T @ x / 12 + torch.eye(3, dtype=x.dtype), x.T / 12)
        w, slope = inverse @ (y + a), inverse.sum(1)
        torch.testing.assert_close(run["fit"].w, w)
        torch.testing.assert_close(run["top"].a, a - 0.1 * 2 * (w - 1) @ slope)
    assert len(drawn) == 4


def test_a_level_with_batches_of_its_own_is_not_solved() -> None:
    own = TEXT.replace("draw b from", "draw c from").replace("0 * mean(b.y)", "0 * mean(c.y)")
    own = own.replace("var w", "draw b from points(at = top.a, count = B)\n  var w")
    with pytest.raises(MloError, match="another batch"):
        bettyc.loads(own).compile(externs={"points": points})


def test_a_made_up_batch_drawn_again_is_the_same() -> None:
    """`gradcheck --mock` compares hypergradients of one batch, which is put back in between."""
    run = bettyc.loads(TEXT, mock={}).compile().start(seed=0)
    first, again = (run.hypergrad("top").flat for _ in range(2))

    assert torch.equal(first, again)
    run.step()
    assert not torch.equal(run.hypergrad("top").flat, first)
