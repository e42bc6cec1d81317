r"""Gradients through sampling by the score function.

    \nabla E_{x ~ p_theta}[r(x)]  =  E[(r(x) - b) \nabla log p_theta(x)]

x is all that the level drew since its start, one batch per gradient; r(x) is the value of the
root's objective at the response to it. `samples` responses are drawn: the one at hand, and others
for which the recorded steps are replayed with new batches. What the level's updates depend on
besides, its objective, its learning rate, a copied start, is differentiated by `unroll` at the
response at hand. The sum is an unbiased estimate of the derivative of the expected loss; it assumes
nothing of the level, neither convexity nor convergence.

Unbiased for any baseline b that does not depend on the sample it is taken from: `none` (b = 0) or
`leave_one_out` (the mean of the other losses, at least two samples), which lowers the variance. The
error falls as 1 / sqrt(samples), and grows with the number of steps and the size of a batch, whose
log-probabilities add up. samples - 1 replays of the inner steps, one call of the source for each of
their batches, and one `unroll`.

Where another level between the root and this one reads its response, the root's loss cannot be
known without solving that one anew: refused.

Williams. Machine Learning 8, 1992 (REINFORCE); Kool, van Hoof, Welling 2019 (leave one out).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bettyc.runtime.objective import Frame
from bettyc.runtime.report import SolveError
from bettyc.runtime.strategies import unroll
from bettyc.runtime.strategies.replay import replay, trajectory_of
from bettyc.runtime.strategies.system import Pulled, System, Trajectory
from bettyc.strategies import Score, Unroll

BASELINES = Score.words["baseline"]


def pull(system: System, options: Score) -> Pulled:
    """The cross terms of the updates, minus the score function's estimate. Raises SolveError where
    nothing was recorded, or where the root's loss is not known.
    """
    path, sampling, loss = trajectory_of(system), system.sampling, system.loss
    through = unroll.pull(system, Unroll())
    if sampling is None or not path.length or not system.into:
        return through
    if loss is None:
        raise SolveError(
            f"`score` through `{system.level}`: `{system.root}` does not read its response directly"
        )
    moving = {name: system.theta[name].detach().requires_grad_() for name in system.into}
    theta = {**system.theta, **moving}
    losses, log_probs = [], []
    for k in range(options.samples):
        drawn = path
        if k:
            numbers = range(k * path.length, (k + 1) * path.length)
            drawn = Redrawn(
                path, [sampling.redraw(path.frame(j % path.length), j) for j in numbers]
            )
        losses.append(loss(_end(system, drawn) if k else system.theta[system.level]))
        with torch.enable_grad():
            each = [sampling.log_prob(theta, drawn.frame(j)) for j in range(path.length)]
            log_probs.append(torch.stack(each).sum())
    surrogate = score(torch.stack(log_probs), torch.stack(losses), options.baseline)
    grads = torch.autograd.grad(
        surrogate, list(moving.values()), allow_unused=True, materialize_grads=True
    )
    cross = {n: through.cross[n] - g for n, g in zip(moving, grads, strict=True)}
    if not all(bool(torch.isfinite(value).all()) for value in cross.values()):
        raise SolveError(
            f"the score function of level `{system.level}` is not finite: is a sample impossible"
            " under its `log_prob`?"
        )
    return Pulled(cross, products=through.products + (options.samples - 1) * path.length)


def score(log_prob: Tensor, reward: Tensor, baseline: str = "leave_one_out") -> Tensor:
    """Scalar whose gradient is the estimate, from log-probabilities and rewards, each of shape
    (samples,).

    Raises ValueError for shapes that differ, an unknown baseline, or one sample left out of one.
    """
    if log_prob.shape != reward.shape or log_prob.ndim != 1:
        raise ValueError(
            f"expected (samples,) twice, got {tuple(log_prob.shape)} and {tuple(reward.shape)}"
        )
    value = reward.detach()
    if baseline == "leave_one_out":
        if len(value) < 2:
            raise ValueError("baseline `leave_one_out` needs at least two samples")
        value = value - (value.sum() - value) / (len(value) - 1)
    elif baseline != "none":
        raise ValueError(f"no baseline `{baseline}`; there are {', '.join(BASELINES)}")
    return (value * log_prob).mean()


@dataclass(frozen=True)
class Redrawn:
    """The recorded steps with other batches."""

    path: Trajectory
    frames: list[Frame]

    @property
    def length(self) -> int:
        return self.path.length

    @property
    def group(self) -> int:
        return self.path.group

    def begin(self, others: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self.path.begin(others)

    def frame(self, k: int) -> Frame:
        return self.frames[k]

    def below(self, k: int) -> Mapping[str, Tensor]:
        return self.path.below(k)

    def advance(
        self,
        k: int,
        theta: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        others: Mapping[str, Tensor],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.path.advance(k, theta, grad, state, others)


def _end(system: System, path: Trajectory) -> Tensor:
    """The level's variables after all steps."""
    with torch.no_grad():
        begin = path.begin(system.theta)
    return replay(system, path, begin, 0, path.length, system.theta)[0]
