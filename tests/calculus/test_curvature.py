"""Curvature classes: known ones by algebra, all of them checked against numerical Hessians.

What a class claims is checked at random points with Hessians of torch autograd in float64: constant
and affine have none, that of a quadratic is the same everywhere, a diagonal one is diagonal, a
convex one has no negative eigenvalue, and mu bounds the eigenvalues from below.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from operator_cases import compiled

from bettyc.calculus.bounds import Bounds
from bettyc.calculus.curvature import Curvature, classify
from bettyc.expr import Graph, Node
from bettyc.ops.term import Term
from bettyc.types import REAL, Tensor, number

SIZES = {"n": 7, "d": 3, "C": 2}
TOLERANCE = 1e-8


class World:
    """Own variables w, u, W, a; everything else is another level's or data."""

    def __init__(self) -> None:
        self.graph = Graph()
        n, d, c = (number(v) for v in SIZES.values())
        leaf = self.leaf
        self.w, self.u = leaf("w", Tensor("real", (d,))), leaf("u", Tensor("real", (d,)))
        self.W, self.a = leaf("W", Tensor("real", (d, c))), leaf("a", REAL)
        self.x, self.t = leaf("x", Tensor("real", (n, d))), leaf("t", Tensor("real", (n,)))
        self.y, self.k = (
            leaf("y", Tensor("int", (n,), number(2))),
            leaf("k", Tensor("int", (n,), c)),
        )
        self.lam, self.s = leaf("lam", Tensor("real", (d,))), leaf("s", REAL)
        self.score, self.A = leaf("score", Tensor("real", (n,))), leaf("A", Tensor("real", (d, d)))

    def leaf(self, name: str, type_: Tensor) -> Term:
        level = "own" if name in "wuWa" else "other"
        return Term(self.graph, self.graph.leaf("var", type_, level=level, name=name))

    def number(self, value: float) -> Term:
        return self.w.constant(value)

    @property
    def z(self) -> Term:
        return self.x @ self.w

    @property
    def logits(self) -> Term:
        return self.x @ self.W


def own_leaves(graph: Graph, root: int) -> list[int]:
    return [i for i, node in graph.leaves(root) if node.attr("level") == "own"]


def mean(t: Term) -> Term:
    return t.call("mean")


def sumsq(t: Term) -> Term:
    return t.call("sumsq")


def decay(v: World) -> Term:
    return 0.5 * (f("exp", v.lam) * v.w**2.0).sum()


def f(name: str, t: Term, *others: Term | float) -> Term:
    return t.call(name, *others)


# What it is called, its formula, whether it is convex, and mu where it is a number.
KNOWN: list[tuple[str, Callable[[World], Term], bool, float | None]] = [
    ("constant", lambda v: sumsq(v.lam), True, None),
    ("affine", lambda v: mean(v.z) + v.lam @ v.u, True, None),
    ("quadratic", lambda v: mean(f("square", v.z - v.t)), True, None),
    ("quadratic", lambda v: mean((v.z - v.t) ** 2.0) * 0.5 + decay(v), True, None),
    ("quadratic(diag)", lambda v: 0.05 * sumsq(v.W), True, 0.1),
    ("quadratic(diag)", lambda v: sumsq(v.w) + 3.0 * sumsq(v.u - v.lam), True, 2.0),
    ("quadratic(diag)", lambda v: mean(v.w * v.w), True, 2 / 3),
    # Convex, but not by the composition rules; the multiple of the identity is still known.
    ("quadratic(diag)", lambda v: v.w @ v.w - 0.25 * sumsq(v.w), False, 1.5),
    ("quadratic(diag)", lambda v: (f("sigmoid", v.lam) * f("square", v.w)).sum(), True, None),
    ("quadratic(diag)", lambda v: (v.lam * f("square", v.w)).sum(), False, None),
    ("quadratic(diag)", lambda v: -sumsq(v.w), False, None),
    ("quadratic", lambda v: v.w @ (v.A @ v.w), False, None),
    ("quadratic", lambda v: sumsq(v.w - v.u), True, None),
    ("quadratic", lambda v: (v.w * v.u).sum(), False, None),
    ("glm:bce", lambda v: mean(f("bce", v.z, v.y)), True, None),
    ("glm:bce + quadratic(diag)",
     lambda v: mean(f("bce", v.z, v.y)) + decay(v), True, None),
    ("glm:bce + quadratic(diag)", lambda v: mean(f("bce", v.z, v.y)) + 0.5 * sumsq(v.w), True, 1.0),
    ("glm:xent + quadratic(diag)",
     lambda v: mean(f("sigmoid", v.score) * f("xent", v.logits, v.k)) + 1e-3 * sumsq(v.W),
     True, 2e-3),
    ("glm:xent", lambda v: mean(v.score * f("xent", v.logits, v.k)), False, None),
    ("glm:softplus", lambda v: mean(f("softplus", -(v.t * v.z))), True, None),
    ("glm:logsumexp", lambda v: mean(f("logsumexp", v.logits) - v.score), True, None),
    ("glm:exp", lambda v: mean(f("exp", v.z) - v.t * v.z), True, None),
    ("glm:log", lambda v: -f("log", v.z).sum(), True, None),
    ("glm:square(sigmoid)", lambda v: mean(f("square", f("sigmoid", v.z) - v.t)), False, None),
    ("glm:pow", lambda v: mean(v.z**3.0), False, None),
    ("glm:pow", lambda v: mean(v.z**4.0), True, None),
    ("glm:pow", lambda v: mean(v.z**-1.0), False, None),
    ("glm:sigmoid", lambda v: mean(v.z * f("sigmoid", v.z)), False, None),
    ("glm:exp(diag)", lambda v: (v.u * f("exp", v.u)).sum(), False, None),
    ("opaque", lambda v: (v.w * f("exp", v.u)).sum(), False, None),
    ("opaque", lambda v: (v.w * f("square", v.u)).sum(), False, None),
    ("glm:tanh", lambda v: mean(f("tanh", v.z)), False, None),
    ("glm:exp(diag)", lambda v: (f("exp", v.w) * f("square", v.lam)).sum(), True, None),
    ("glm:exp(diag) + quadratic(diag)",
     lambda v: f("exp", v.a) * sumsq(v.lam) + sumsq(v.w), True, None),
    ("glm:bce + glm:xent",
     lambda v: mean(f("bce", v.z, v.y)) + mean(f("xent", v.logits, v.k)), True, None),
    ("convex", lambda v: mean(f("relu", 1.0 - v.t * v.z)), True, None),
    ("convex", lambda v: f("norm", v.z) + f("abs", v.u).sum(), True, None),
    ("convex + quadratic", lambda v: f("abs", v.w).sum() + sumsq(v.z), True, None),
    ("glm:logsumexp(square)", lambda v: f("logsumexp", f("square", v.z)), True, None),
    ("convex", lambda v: f("logsumexp", f("abs", v.z)), True, None),
    ("convex", lambda v: f("exp", sumsq(v.w)), True, None),
    ("opaque", lambda v: f("exp", v.a) * sumsq(v.w), False, None),
    ("opaque", lambda v: -f("norm", v.z), False, None),
    ("opaque", lambda v: f("detach", v.z) @ v.z, False, None),
    ("opaque", lambda v: f("prod", v.w), False, None),
    ("opaque + prox", lambda v: f("prod", v.w) + 0.5 * 2.0 * sumsq(v.w - v.lam), False, 2.0),
    ("opaque", lambda v: f("tanh", v.z) @ (v.x @ v.u), False, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "formula", "convex", "mu"), KNOWN, ids=[f"{i}-{k[0]}" for i, k in enumerate(KNOWN)]
)
def test_known_classes(
    name: str, formula: Callable[[World], Term], convex: bool, mu: float | None
) -> None:
    world = World()
    root = formula(world)
    found = classify(world.graph, root.index, own_leaves(world.graph, root.index))
    assert (str(found), found.convex, found.mu) == (
        name, convex, None if mu is None else pytest.approx(mu)
    )  # fmt: skip
    verify(world.graph, root.index, found)


def test_strong_convexity_without_a_number() -> None:
    world = World()
    wide = (f("exp", world.lam) * f("square", world.w)).sum()
    loss = mean(f("bce", world.z, world.y))
    own = [world.w.index]
    assert classify(world.graph, (loss + wide).index, own).strongly
    assert not classify(world.graph, loss.index, own).strongly
    assert not classify(world.graph, wide.index, [world.w.index, world.u.index]).strongly
    weighted = (world.lam * f("square", world.w)).sum()
    assert not classify(world.graph, weighted.index, own).strongly


def test_quotients_of_positive_variables() -> None:
    world = World()
    root, own = (world.s / world.a), [world.a.index]
    positive = Bounds(0.0, strict=True)

    def convex(domains: dict[int, Bounds], sign: float = 1.0) -> bool:
        return classify(world.graph, (sign * root).index, own, domains=domains).convex

    s, a = world.s.index, world.a.index
    assert convex({s: positive, a: positive})
    assert not convex({a: positive})
    assert not convex({s: positive})
    assert convex({s: Bounds(-2.0, 0.0), a: positive}, -1.0)
    assert not convex({s: Bounds(-2.0, 0.0), a: positive})


def test_a_choice_by_data_keeps_the_class_of_its_arms() -> None:
    world = World()
    condition = world.t.call("gt", 0.0)
    both = mean(condition.call("where", f("softplus", world.z), f("exp", -world.z)))
    found = classify(world.graph, both.index, [world.w.index])
    assert (found.kind, found.convex) == ("glm", True)
    verify(world.graph, both.index, found)
    own = mean(world.z.call("gt", 0.0).call("where", world.z, world.t))
    assert classify(world.graph, own.index, [world.w.index]).kind == "opaque"


def test_maximising_turns_convexity_around() -> None:
    world = World()
    root, own = -sumsq(world.w), [world.w.index]
    found = classify(world.graph, root.index, own, "maximize")
    assert (found.convex, found.mu) == (True, 2.0)
    assert not classify(world.graph, sumsq(world.w).index, own, "maximize").convex


def test_networks_from_python_are_opaque_beside_their_prox() -> None:
    graph = Graph()
    type_ = Tensor("real", (number(9),))
    nets = [graph.leaf("module", REAL, level=level, name="net") for level in ("own", "other")]
    out = Term(graph, graph.make("apply", [nets[0]], Tensor("real", (number(4),))))
    own, other = (Term(graph, graph.make("params", [net], type_)) for net in nets)
    root = mean(f("square", out)) + 0.5 * 2.0 * sumsq(own - other)
    found = classify(graph, root.index, [nets[0]])
    assert (str(found), found.mu, found.witness) == ("opaque + prox", 2.0, out.index)
    some = Term(graph, graph.make("params", [nets[0]], type_, **{"except": "fc.*"}))
    partial = mean(f("square", out)) + sumsq(some)
    assert classify(graph, partial.index, [nets[0]]).mu is None


# Hessians -----------------------------------------------------------------------------------------


def verify(graph: Graph, root: int, found: Curvature, seeds: tuple[int, ...] = (0, 1)) -> None:
    """Whatever the class claims, at random points."""
    own = own_leaves(graph, root)
    if not own:
        assert found.kind == "constant"
        return
    if found.convex:
        assert gap_of_midpoints(graph, root, own, seeds[0]).min() > -TOLERANCE
    turned = classify(graph, root, own, "maximize")
    if turned.convex:
        assert gap_of_midpoints(graph, root, own, seeds[0]).max() < TOLERANCE
    pairs = [hessian(graph, root, own, seed) for seed in seeds]
    for h, point in pairs:
        if not torch.isfinite(h).all():
            continue  # outside the domain of a logarithm
        size = max(1.0, float(h.abs().max()))
        if found.kind in ("constant", "affine"):
            assert h.abs().max() < TOLERANCE
        if found.diagonal and found.kind not in ("convex", "opaque"):
            assert (h - torch.diag(h.diagonal())).abs().max() < TOLERANCE * size
        lowest = torch.linalg.eigvalsh((h + h.T) / 2).min()
        if found.convex:
            assert lowest > (found.mu or 0.0) - TOLERANCE * size
        if found.strongly:
            assert lowest > 0
        if found.kind in ("constant", "affine", "quadratic"):
            again, _ = hessian(graph, root, own, 50, others=point)
            assert (h - again).abs().max() < TOLERANCE * size


def gap_of_midpoints(graph: Graph, root: int, own: list[int], seed: int) -> torch.Tensor:
    """(f(p) + f(q)) / 2 - f((p + q) / 2) for random p and q, relative; zero outside the domain."""
    generator = torch.Generator().manual_seed(seed)
    leaves = {i: node for i, node in graph.leaves(root) if node.op == "var"}
    call = compiled(graph, [root], [str(node.attr("name")) for node in leaves.values()])
    others = {i: _sample(node, generator) for i, node in leaves.items()}
    gaps = [torch.zeros(())]
    for scale in (0.01, 0.1, 1.0, 1.0, 3.0, 3.0):
        shift = {i: _sample(leaves[i], generator) for i in own}
        ends = {i: shift[i] + scale * _sample(leaves[i], generator) for i in own}
        middle = {i: (shift[i] + ends[i]) / 2 for i in own}
        p, q, m = (
            call(*({**others, **point}[i] for i in leaves)) for point in (shift, ends, middle)
        )
        gap = ((p + q) / 2 - m) / (1 + p.abs() + q.abs())
        gaps.append(gap.double() if gap.isfinite() else torch.zeros(()).double())
    return torch.stack([g.double() for g in gaps])


def hessian(
    graph: Graph,
    root: int,
    own: list[int],
    seed: int,
    others: dict[int, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, dict[int, torch.Tensor]]:
    """At a random point; `others` keeps the values of what is not own."""
    generator = torch.Generator().manual_seed(seed)
    leaves = {i: node for i, node in graph.leaves(root) if node.op == "var"}
    values = {i: _sample(node, generator) for i, node in leaves.items()}
    if others is not None:
        values.update({i: v for i, v in others.items() if i not in own})
    names = [str(node.attr("name")) for node in leaves.values()]
    call = compiled(graph, [root], names)
    sizes = [values[i].numel() for i in own]

    def scalar(flat: torch.Tensor) -> torch.Tensor:
        pieces = dict(zip(own, flat.split(sizes), strict=True))
        args = [pieces[i].reshape(values[i].shape) if i in pieces else values[i] for i in leaves]
        return call(*args)

    flat = torch.cat([values[i].reshape(-1) for i in own])
    return torch.autograd.functional.hessian(scalar, flat), values


def _sample(node: Node, generator: torch.Generator) -> torch.Tensor:
    type_ = node.type
    assert isinstance(type_, Tensor)
    shape = [d.value or 0 for d in type_.shape]
    if type_.kind == "int":
        assert type_.labels is not None
        return torch.randint(0, type_.labels.value or 1, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# Random formulas ----------------------------------------------------------------------------------

UNARY = (
    "exp", "sigmoid", "tanh", "softplus", "square", "neg", "abs", "relu", "sin", "log_softmax",
    "elu", "leaky_relu", "softmax", "expm1", "cumsum", "log1p", "sqrt", "log", "gelu",
)  # fmt: skip
BINARY = ("add", "sub", "mul", "maximum", "minimum", "div")


def random_formula(seed: int) -> tuple[World, Term]:
    """A scalar of a few operators over vectors of one length."""
    rng = random.Random(seed)
    world = World()
    pool = [
        f("exp", world.lam) + 0.5,
        -f("sigmoid", world.lam),
        world.w,
        world.w,
        world.u,
        world.lam,
        world.A @ world.w,
        world.s,
        world.number(rng.uniform(-2, 2)),
    ]
    for _ in range(rng.randint(1, 6)):
        if rng.random() < 0.5:
            operand, op = rng.choice([t for t in pool if t.shape]), rng.choice(UNARY)
            attrs = {"alpha": rng.choice((0.5, 2.0))} if op == "elu" else {}
            pool.append(operand.call(op, **attrs))
        else:
            left, right = rng.choice(pool), rng.choice(pool)
            if rng.random() < 0.2:
                pool.append(left ** rng.choice((2.0, 3.0, 4.0, 0.5, -1.0)))
            pool.append(left.call(rng.choice(BINARY), right))
    reduce = rng.choice(("sum", "mean", "sumsq", "logsumexp", "norm", "amax", "amin"))
    last = next(t for t in reversed(pool) if t.shape)
    total = last.call(reduce)
    if rng.random() < 0.5:
        total = total + rng.uniform(-1, 2) * sumsq(rng.choice((world.w, world.u)))
    return world, total


@pytest.mark.parametrize("seed", range(200))
def test_claims_hold_for_random_formulas(seed: int) -> None:
    world, root = random_formula(seed)
    found = classify(world.graph, root.index, own_leaves(world.graph, root.index))
    verify(world.graph, root.index, found, seeds=(seed,))


def test_random_formulas_meet_every_class() -> None:
    kinds, convex, strong = set(), 0, 0
    for seed in range(200):
        world, root = random_formula(seed)
        found = classify(world.graph, root.index, own_leaves(world.graph, root.index))
        kinds.add(found.kind)
        convex += found.convex and found.kind in ("quadratic", "glm", "convex")
        strong += found.mu is not None
    assert kinds == {"constant", "affine", "quadratic", "glm", "convex", "opaque"}
    assert convex > 30
    assert strong > 5
