"""Bounds hold at random points, for random formulas of variables with and without domains."""

from __future__ import annotations

import random

import pytest
import torch
from operator_cases import compiled

from bettyc.calculus.bounds import ANY, Bounds, bounds
from bettyc.expr import Graph
from bettyc.ops.term import Term
from bettyc.types import Tensor, number

D = number(4)
POSITIVE, UNIT, NEGATIVE = Bounds(0.0, strict=True), Bounds(0.0, 1.0, True), Bounds(-3.0, -1.0)
UNARY = (
    "exp", "log", "log1p", "sqrt", "abs", "square", "sigmoid", "tanh", "relu", "softplus", "neg",
    "sign", "expm1", "softmax", "log_softmax", "cumsum", "flip", "detach", "erf",
)  # fmt: skip
BINARY = ("add", "sub", "mul", "div", "maximum", "minimum", "pow")
REDUCE = ("sum", "mean", "amax", "amin", "sumsq", "norm", "prod", "logsumexp")


class World:
    """Leaves p > 0, q in (0, 1), m in [-3, -1] and free x, with formulas over them."""

    def __init__(self, seed: int) -> None:
        self.graph, rng = Graph(), random.Random(seed)
        names = {"p": POSITIVE, "q": UNIT, "m": NEGATIVE, "x": ANY}
        self.leaves = {
            name: Term(
                self.graph, self.graph.leaf("var", Tensor("real", (D,)), level="l", name=name)
            )
            for name in names
        }
        self.domains = {self.leaves[n].index: b for n, b in names.items()}
        pool = [*self.leaves.values(), self.leaves["p"].constant(rng.choice((-2.0, 0.0, 0.5, 3.0)))]
        for _ in range(8):
            left = rng.choice(pool)
            kind = rng.random()
            if kind < 0.4 and left.shape:
                pool.append(left.call(rng.choice(UNARY)))
            elif kind < 0.85:
                pool.append(left.call(rng.choice(BINARY), rng.choice(pool)))
            elif left.shape:
                pool.append(left.call(rng.choice(REDUCE)))
        self.pool = pool

    def sample(self, seed: int) -> list[torch.Tensor]:
        torch.manual_seed(seed)
        x = torch.randn(4, 4, dtype=torch.float64)
        return [x[0].exp(), torch.sigmoid(x[1]), -1 - 2 * torch.sigmoid(x[2]), x[3] * 2]


@pytest.mark.parametrize("seed", range(150))
def test_entries_lie_within_their_bounds(seed: int) -> None:
    world = World(seed)
    nodes = [t.index for t in world.pool if t.node.op != "const"]
    known = bounds(world.graph, world.graph.reachable(nodes), world.domains)
    call = compiled(world.graph, nodes, list(world.leaves))
    for point in range(4):
        for index, value in zip(nodes, call(*world.sample(point)), strict=True):
            found = known[index]
            seen = value[~value.isnan()]
            slack = 1e-9 * seen.abs().clamp(min=1)
            assert (seen >= found.low - slack).all(), (found, world.graph[index])
            assert (seen <= found.high + slack).all(), (found, world.graph[index])
            assert not found.strict or (seen >= 0).all()
            if found.positive and seen.numel():
                assert (seen > 0).all() or seen.abs().min() < 1e-300  # an exponential underflowed


def _leaf(graph: Graph, name: str) -> Term:
    return Term(graph, graph.leaf("var", Tensor("real", (D,)), level="l", name=name))


def test_known_bounds() -> None:
    graph = Graph()
    p, q, m, x = (_leaf(graph, name) for name in "pqmx")
    domains = {p.index: POSITIVE, q.index: UNIT, m.index: NEGATIVE}
    cases = [
        (x.call("exp") + 1.0, (1.0, float("inf"), True)),
        (x.call("square") + q, (0.0, float("inf"), True)),
        (x.call("sigmoid") - 1.0, (-1.0, 0.0, False)),
        (m * m, (1.0, 9.0, True)),
        (m * q, (-3.0, 0.0, False)),
        (1.0 / (q + 1.0), (0.5, 1.0, True)),
        (q / m, (-1.0, 0.0, False)),
        (q / x, (-float("inf"), float("inf"), False)),
        (1.0 / q, (1.0, float("inf"), True)),
        ((q + 1.0).call("log"), (0.0, pytest.approx(0.6931471805599453), True)),
        (x.call("relu").call("neg"), (-float("inf"), 0.0, False)),
        (q.sum(), (0.0, float("inf"), True)),
        (q.call("maximum", 0.25), (0.25, 1.0, True)),
        (x**4.0, (0.0, float("inf"), False)),
        (x**3.0, (-float("inf"), float("inf"), False)),
    ]
    for term, (low, high, positive) in cases:
        found = bounds(graph, graph.reachable([term.index]), domains)[term.index]
        assert (found.low, found.high, found.positive) == (low, high, positive), term.node
