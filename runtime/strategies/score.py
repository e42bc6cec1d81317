r"""Gradients through sampling by the score function.

    \nabla E_{x ~ p_theta}[r(x)]  =  E[(r(x) - b) \nabla log p_theta(x)]

Unbiased for any baseline b that does not depend on the sample it is taken from: `none` (b = 0) or
`leave_one_out` (the mean of the other rewards, at least two samples), which lowers the variance.
Needs log-probabilities that are differentiable and rewards that need not be.

The function returns a scalar whose gradient is the estimate; add it to an objective whose batch was
drawn from the variables in question.

Williams. Machine Learning 8, 1992 (REINFORCE); Kool, van Hoof, Welling 2019 (leave one out).
"""

from __future__ import annotations

from torch import Tensor

BASELINES = ("none", "leave_one_out")


def score(log_prob: Tensor, reward: Tensor, baseline: str = "leave_one_out") -> Tensor:
    """Scalar surrogate from log-probabilities, shape (samples,), and rewards, shape (samples,).

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
