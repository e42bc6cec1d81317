"""Optimizers: the update rules by name, and the solvers that run to a tolerance."""

from __future__ import annotations

from collections.abc import Sequence

from bettyc.runtime.optimizers import adagrad, adam, rmsprop, sgd, sign_sgd, torch_optim
from bettyc.runtime.optimizers.rule import Rule
from bettyc.runtime.optimizers.torch_optim import View

RULES: dict[str, Rule] = {
    "sgd": sgd.RULE,
    "adam": adam.ADAM,
    "adamw": adam.ADAMW,
    "rmsprop": rmsprop.RULE,
    "adagrad": adagrad.RULE,
    "sign_sgd": sign_sgd.RULE,
}


def rule_of(name: str, views: Sequence[View]) -> Rule | None:
    """The update rule of an optimizer, None for those that solve to a tolerance.

    views: the level's variables in its flat tensor, for rules that look at shapes.
    """
    if name in torch_optim.FLAT or name in torch_optim.SHAPED:
        return torch_optim.rule(name, views)
    return RULES.get(name)
