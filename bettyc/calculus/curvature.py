"""Curvature classes: what an objective is in a level's own variables, by abstract interpretation.

Every node gets a `Fact` about its entries as functions of the level's own leaves, everything else
being held fixed; responses of other levels too, so that the class is that of the level's own
Hessian. The classes of a sum's terms, from best to worst:

    constant, affine
    quadratic            (diag): with a diagonal Hessian
    glm:<phi>            sums of phi(affine), phi smooth and acting entry by entry or row by row
    prox                 a squared distance, beside a term that is opaque: a known +mu*I
    convex               no formula for a solver, but convex (norms, hinges, maxima)
    opaque               the rest

Convexity follows the composition rules of disciplined convex programming (Grant, Boyd, Ye 2006).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from bettyc.calculus.bounds import Bounds
from bettyc.calculus.composition import AFFINE, CONSTANT, GLM, QUADRATIC, Fact, facts
from bettyc.expr import Graph

# Operators that a sum of terms is looked for behind.
LINEAR = frozenset({"add", "sub", "neg", "sum", "mean", "index", "reshape", "permute", "expand"})
KINDS = ("constant", "affine", "quadratic", "glm", "convex", "opaque")


@dataclass(frozen=True)
class Part:
    """A term of the objective's sum: its class, its functions phi, and whether it is diagonal."""

    kind: str
    phi: str = ""
    diagonal: bool = False
    node: int = -1

    def __str__(self) -> str:
        word = f"{self.kind}:{self.phi}" if self.phi else self.kind
        return f"{word}(diag)" if self.diagonal and self.kind in ("quadratic", "glm") else word


@dataclass(frozen=True)
class Curvature:
    """The class of an objective in a level's own variables.

    kind: the worst class of its terms. parts: the terms, merged by class.
    convex: of the objective as it is minimised. strongly: the Hessian is positive definite at every
    value of the other levels' variables. mu: the Hessian is mu * I plus that of the rest, mu > 0;
    a lower bound of the eigenvalues where `convex`, a known damping where the rest is opaque.
    witness: the first node that left the class of formulas, None unless opaque or convex.
    """

    kind: str
    parts: tuple[Part, ...] = ()
    convex: bool = False
    strongly: bool = False
    mu: float | None = None
    witness: int | None = None

    def __str__(self) -> str:
        return " + ".join(dict.fromkeys(map(str, self.parts))) or self.kind

    @property
    def name(self) -> str:
        return str(self)

    @property
    def diagonal(self) -> bool:
        """Is the whole Hessian diagonal?"""
        curved = [p for p in self.parts if p.kind not in ("constant", "affine")]
        return all(p.diagonal for p in curved)

    def constrained(self) -> Curvature:
        """The same objective over a domain: reparametrised variables, or a minimum at the edge."""
        if self.kind == "constant":
            return self
        return replace(self, kind="opaque", convex=False, strongly=False, mu=None)


def classify(
    graph: Graph,
    objective: int,
    own: Sequence[int],
    sense: str = "minimize",
    domains: Mapping[int, Bounds] | None = None,
) -> Curvature:
    """The class of `objective` in the leaves `own`.

    domains: bounds of variables of other levels that are declared in a domain.
    """
    order = graph.reachable([objective])
    known = facts(graph, order, own, domains)
    root = known[objective]
    parts = tuple(_parts(graph, objective, known))
    opaque = any(p.kind == "opaque" for p in parts)
    parts = tuple(_merged([_prox(p, known) if opaque else p for p in parts]))
    kind = max((p.kind for p in parts), key=_rank, default="constant")
    upward = sense == "minimize"
    factor = 1.0 if upward else -1.0
    floors = [factor * root.floor.get(leaf, 0.0) for leaf in own]
    mu = min(floors) if floors and min(floors) > 0 else None
    convex = root.convex if upward else root.concave
    certain = {*root.definite, *(leaf for leaf, c in root.floor.items() if c > 0)}
    definite = upward and bool(own) and certain.issuperset(own)
    strongly = convex and (mu is not None or definite)
    if kind == "convex" and not convex:
        kind = "opaque"
        parts = tuple(replace(p, kind=kind) if p.kind == "convex" else p for p in parts)
    witness = _witness(graph, order, known) if kind in ("convex", "opaque") else None
    return Curvature(kind, parts, convex, strongly, mu, witness)


def _rank(kind: str) -> int:
    return KINDS.index("quadratic" if kind == "prox" else kind)


def _parts(graph: Graph, index: int, known: Mapping[int, Fact]) -> Iterator[Part]:
    """The terms of the sum that a scalar is, seen through constant factors and reductions."""
    node, fact = graph[index], known[index]
    if fact.kind <= AFFINE:
        if fact.kind == AFFINE:
            yield Part("affine", node=index)
        return
    curved = [a for a in node.args if known[a].kind > CONSTANT]
    if (
        node.op in LINEAR
        or (node.op in ("mul", "div") and curved == [node.args[0]])
        or (node.op == "mul" and curved == [node.args[1]])
    ):
        for arg in curved:
            yield from _parts(graph, arg, known)
        return
    diagonal = fact.place is not None
    if fact.kind == QUADRATIC:
        yield Part("quadratic", diagonal=diagonal or fact.diagonal, node=index)
    elif fact.kind == GLM:
        for phi in sorted(fact.phis):
            yield Part("glm", phi, diagonal, index)
        if fact.squared:
            yield Part("quadratic", diagonal=False, node=index)
    else:
        yield Part("convex" if fact.convex or fact.concave else "opaque", node=index)


def _prox(part: Part, known: Mapping[int, Fact]) -> Part:
    """A quadratic with a known multiple of the identity, beside an opaque term."""
    is_prox = part.kind == "quadratic" and bool(known[part.node].floor)
    return replace(part, kind="prox") if is_prox else part


def _merged(parts: Sequence[Part]) -> Iterator[Part]:
    """One part per class: opaque, convex, glm, quadratic; affine only where nothing is curved."""
    curved = [p for p in parts if p.kind != "affine"]
    quadratics = [p for p in curved if p.kind == "quadratic"]
    if quadratics:
        full = all(p.diagonal for p in quadratics)
        curved = [p for p in curved if p.kind != "quadratic"]
        curved.append(replace(quadratics[0], diagonal=full))
    seen = set()
    for part in sorted(curved, key=lambda p: -_rank(p.kind)):
        if str(part) not in seen:
            seen.add(str(part))
            yield part
    if not curved and parts:
        yield parts[0]


def _witness(graph: Graph, order: Sequence[int], known: Mapping[int, Fact]) -> int | None:
    for index in order:
        inside = [known[a].kind for a in graph[index].args]
        if known[index].kind > GLM and max(inside, default=0) <= GLM:
            return index
    return None
