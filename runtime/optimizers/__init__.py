"""Optimizers: the update rules by name, and the solvers that run to a tolerance."""

from __future__ import annotations

from bettyc.runtime.optimizers import adagrad, adam, rmsprop, sgd, sign_sgd
from bettyc.runtime.optimizers.rule import Rule

RULES: dict[str, Rule] = {
    "sgd": sgd.RULE,
    "adam": adam.ADAM,
    "adamw": adam.ADAMW,
    "rmsprop": rmsprop.RULE,
    "adagrad": adagrad.RULE,
    "sign_sgd": sign_sgd.RULE,
}
