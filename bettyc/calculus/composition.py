"""What every node is as a function of a level's own leaves: degree, convexity, structure.

The rules of `bettyc.calculus.curvature`, operator by operator. A fact speaks of every entry of the
node; other levels' variables, data and responses are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from bettyc.calculus.bounds import ANY, INF, Bounds, bounds
from bettyc.expr import LEAVES, Graph, Node
from bettyc.ops import OPS
from bettyc.types import Tensor, product

CONSTANT, AFFINE, QUADRATIC, GLM, OTHER = range(5)
Place: TypeAlias = tuple[str, int]


@dataclass(frozen=True)
class Fact:
    """A node in the own leaves.

    kind: constant, affine, quadratic, glm (sums of smooth functions of affine entries, plus
        quadratics when `squared`), or other.
    phis: names of the functions of a glm. argument: the affine node that every entry is a function
        of, entry by entry, before any reduction.
    place: set when every entry depends on one own coordinate at most; equal places depend on the
        same one. diagonal: it did so before a reduction.
    gain: leaf -> g when the node is affine and its Jacobian J has J^T J >= g^2 I on that leaf.
    floor: leaf -> c when the sum of the entries has the Hessian c I on that leaf, plus the rest.
    definite: leaves on which the sum of the entries is known to be strongly convex, c or no c.
    """

    kind: int = CONSTANT
    convex: bool = True
    concave: bool = True
    phis: frozenset[str] = frozenset()
    squared: bool = False
    argument: int | None = None
    place: Place | None = None
    diagonal: bool = False
    gain: Mapping[int, float] = field(default_factory=dict)
    floor: Mapping[int, float] = field(default_factory=dict)
    definite: frozenset[int] = frozenset()


CONST = Fact()
UNKNOWN = Fact(OTHER, convex=False, concave=False)

# (convex, concave, how it moves with its operand: 1 up, -1 down, 0 neither); smooth functions phi.
SHAPES: dict[str, tuple[bool, bool, int]] = {
    "exp": (True, False, 1),
    "expm1": (True, False, 1),
    "log": (False, True, 1),
    "log1p": (False, True, 1),
    "sqrt": (False, True, 1),
    "softplus": (True, False, 1),
    "relu": (True, False, 1),
    "leaky_relu": (True, False, 1),
    "abs": (True, False, 0),
    "norm": (True, False, 0),
    "logsumexp": (True, False, 1),
    "log_softmax": (False, True, 0),
    "amax": (True, False, 1),
    "amin": (False, True, 1),
    "softmax": (False, False, 0),
    "sigmoid": (False, False, 1),
    "tanh": (False, False, 1),
    "erf": (False, False, 1),
}
MOVES = frozenset({"index", "reshape", "permute", "expand", "concat", "stack", "narrow", "pad"})
MOVES |= {"scatter", "flip", "pick", "real", "params"}
# Of those, the ones that keep every entry once.
WHOLE = frozenset({"reshape", "permute", "flip", "real", "concat", "stack", "pad", "params"})
SUMS = frozenset({"sum", "mean", "cumsum"})


class Setting:
    """One analysis: the graph, the bounds of its nodes, the facts so far."""

    def __init__(self, graph: Graph, own: Sequence[int], limits: Mapping[int, Bounds]) -> None:
        self.graph = graph
        self.own = frozenset(own)
        self.limits = limits
        self.facts: dict[int, Fact] = {}

    def bound(self, index: int) -> Bounds:
        return self.limits.get(index, ANY)

    def shape(self, index: int) -> tuple[object, ...]:
        type_ = self.graph[index].type
        return type_.shape if isinstance(type_, Tensor) else ()

    def curved(self, node: Node) -> list[int]:
        """The operands that depend on the own leaves."""
        return [a for a in node.args if self.facts[a].kind > CONSTANT]


def facts(
    graph: Graph, order: Sequence[int], own: Sequence[int], domains: Mapping[int, Bounds] | None
) -> dict[int, Fact]:
    """The facts of the nodes in `order`, which is topological."""
    setting = Setting(graph, own, bounds(graph, order, domains))
    for index in order:
        setting.facts[index] = _of(setting, index, graph[index])
    return setting.facts


def _of(setting: Setting, index: int, node: Node) -> Fact:
    if index in setting.own:
        return Fact(AFFINE, argument=index, place=("leaf", index), gain={index: 1.0})
    if node.op in LEAVES or node.op == "ema" or not setting.curved(node):
        return CONST
    row = OPS[node.op]
    if node.op in MOVES:
        return _moved(setting, index, node)
    if node.op in SUMS:
        return _summed(setting, index, node)
    rule = RULES.get(node.op)
    if rule is not None:
        return rule(setting, index, node)
    if node.op in SHAPES or (row.fusion == "pointwise" and row.smooth == "smooth"):
        return _function(setting, index, node)
    return UNKNOWN


def _moved(setting: Setting, index: int, node: Node) -> Fact:
    """Entries of operands in another order; zeros between them."""
    operands = [setting.facts[a] for a in node.args if setting.facts[a].kind > CONSTANT]
    if node.op == "params" and any(f.kind > AFFINE for f in operands):
        return UNKNOWN
    worst = max(f.kind for f in operands)
    whole = node.op in WHOLE and node.attr("except") is None
    gain: dict[int, float] = {}
    for fact in operands:
        # Different leaves, or one piece: the rows of the Jacobian do not meet.
        gain = {} if gain.keys() & fact.gain.keys() else {**gain, **fact.gain}
    single = len(operands) == 1
    floor = operands[0].floor if single and whole else {}
    return Fact(
        worst,
        all(f.convex for f in operands),
        all(f.concave for f in operands),
        frozenset().union(*(f.phis for f in operands)),
        any(f.squared or f.kind == QUADRATIC for f in operands) and worst == GLM,
        index if worst == AFFINE else None,
        ("node", index) if all(f.place for f in operands) and node.op != "scatter" else None,
        gain=gain if whole and worst == AFFINE else {},
        floor=floor,
        definite=operands[0].definite if single and whole else frozenset(),
    )


def _summed(setting: Setting, index: int, node: Node) -> Fact:
    """Sums of entries: classes and convexity stay."""
    fact = setting.facts[node.args[0]]
    floor, definite = fact.floor, fact.definite
    if node.op == "mean":
        scale = _share(setting, node)
        floor = {leaf: c * scale for leaf, c in floor.items() if scale}
        definite = definite | frozenset(leaf for leaf, c in fact.floor.items() if c > 0)
    if node.op == "cumsum":
        floor, definite = {}, frozenset()
    return replace(fact, argument=None, place=None, gain={}, floor=floor, definite=definite)


def _share(setting: Setting, node: Node) -> float:
    """1 / n of a mean over n entries, 0 while n is unknown."""
    source, result = setting.graph[node.args[0]].type, node.type
    if not isinstance(source, Tensor) or not isinstance(result, Tensor):
        return 0.0
    before, after = product(source.shape).value, product(result.shape).value
    return after / before if before and after else 0.0


def _add(setting: Setting, index: int, node: Node) -> Fact:
    sign = -1.0 if node.op == "sub" else 1.0
    left = setting.facts[node.args[0]]
    right = _scaled(setting.facts[node.args[1]], Bounds(sign, sign))
    if node.args[0] == node.args[1]:
        return CONST if sign < 0 else _scaled(left, Bounds(2.0, 2.0))
    result = _joined(setting, index, node, left, right)
    gain = left.gain if right.kind == CONSTANT else right.gain if left.kind == CONSTANT else {}
    repeated = _repeats(setting, index, node)
    return replace(
        result,
        gain={} if any(repeated) else gain,
        floor={} if any(repeated) else _sum(left.floor, right.floor),
        definite=frozenset() if any(repeated) else left.definite | right.definite,
    )


def _joined(setting: Setting, index: int, node: Node, left: Fact, right: Fact) -> Fact:
    """The class of a sum, a maximum, or a choice of two."""
    kind = max(left.kind, right.kind)
    argument = _argument(setting, index, node, kind)
    return Fact(
        kind,
        left.convex and right.convex,
        left.concave and right.concave,
        left.phis | right.phis,
        kind == GLM and any(f.squared or f.kind == QUADRATIC for f in (left, right)),
        argument,
        _place(setting, index, node),
    )


def _repeats(setting: Setting, index: int, node: Node) -> list[bool]:
    """Which curved operands are broadcast, so that their entries count several times."""
    return [
        setting.facts[a].kind > CONSTANT and setting.shape(a) != setting.shape(index)
        for a in node.args
    ]


def _sum(a: Mapping[int, float], b: Mapping[int, float]) -> dict[int, float]:
    return {leaf: a.get(leaf, 0.0) + b.get(leaf, 0.0) for leaf in {*a, *b}}


def _argument(setting: Setting, index: int, node: Node, kind: int) -> int | None:
    """The affine node of which the entries are functions, if it is one."""
    if kind == AFFINE:
        return index
    found = {setting.facts[a].argument for a in setting.curved(node)}
    return found.pop() if len(found) == 1 and not any(_repeats(setting, index, node)) else None


def _place(setting: Setting, index: int, node: Node) -> Place | None:
    """Entry by entry one own coordinate: all curved operands must follow the same one."""
    places = {setting.facts[a].place for a in setting.curved(node)}
    if len(places) != 1 or None in places:
        return None
    return ("node", index) if any(_repeats(setting, index, node)) else places.pop()


def _scaled(fact: Fact, by: Bounds) -> Fact:
    """Times constants within bounds."""
    up, down = by.low >= 0, by.high <= 0
    convex = (up and fact.convex) or (down and fact.concave) or fact.kind <= AFFINE
    concave = (up and fact.concave) or (down and fact.convex) or fact.kind <= AFFINE
    definite: frozenset[int] = frozenset()
    if by.positive:
        definite = fact.definite | {leaf for leaf, c in fact.floor.items() if c > 0}
    lows = {leaf: c * (by.low if c > 0 else by.high) for leaf, c in fact.floor.items() if c}
    floor = {leaf: c for leaf, c in lows.items() if (up or down) and c and abs(c) != INF}
    smallest = by.low if up else -by.high if down else 0.0
    gain = {leaf: g * smallest for leaf, g in fact.gain.items() if smallest > 0}
    return replace(fact, convex=convex, concave=concave, gain=gain, floor=floor, definite=definite)


def _neg(setting: Setting, index: int, node: Node) -> Fact:
    fact = _scaled(setting.facts[node.args[0]], Bounds(-1.0, -1.0))
    return replace(fact, argument=index) if fact.kind == AFFINE else fact


def _mul(setting: Setting, index: int, node: Node) -> Fact:
    x, y = node.args
    if x == y:
        return _square(setting, index, node)
    left, right = setting.facts[x], setting.facts[y]
    if CONSTANT in (left.kind, right.kind):
        moving, factor = (left, y) if right.kind == CONSTANT else (right, x)
        return _factor(setting, index, node, moving, setting.bound(factor))
    kind = max(left.kind, right.kind)
    argument = _argument(setting, index, node, OTHER)
    place = _place(setting, index, node)
    if kind == AFFINE:
        return Fact(QUADRATIC, False, False, argument=argument, place=place)
    if argument is not None and kind <= GLM:
        names = left.phis | right.phis or frozenset({"pow"})
        return Fact(GLM, False, False, names, False, argument, place)
    return UNKNOWN


def _factor(setting: Setting, index: int, node: Node, moving: Fact, by: Bounds) -> Fact:
    fact = _scaled(moving, by)
    place = _place(setting, index, node)
    if any(_repeats(setting, index, node)):
        fact = replace(fact, gain={}, floor={}, definite=frozenset(), argument=None)
    return replace(fact, place=place, argument=index if fact.kind == AFFINE else fact.argument)


def _div(setting: Setting, index: int, node: Node) -> Fact:
    x, y = node.args
    left, right = setting.facts[x], setting.facts[y]
    below = setting.bound(y)
    if right.kind == CONSTANT:
        by = Bounds()
        if below.positive:
            by = Bounds(1 / below.high, 1 / below.low if below.low > 0 else INF, True)
        elif below.high < 0:
            by = Bounds(1 / below.high, 1 / below.low)
        return _factor(setting, index, node, left, by)
    if left.kind == CONSTANT and right.kind <= AFFINE:
        above = setting.bound(x)
        convex = below.positive and above.nonnegative
        concave = below.positive and above.nonpositive
        place = _place(setting, index, node)
        return Fact(GLM, convex, concave, frozenset({"div"}), False, right.argument, place)
    argument = _argument(setting, index, node, OTHER)
    if argument is not None and max(left.kind, right.kind) <= GLM:
        names = left.phis | right.phis or frozenset({"div"})
        return Fact(GLM, False, False, names, False, argument, _place(setting, index, node))
    return UNKNOWN


def _square(setting: Setting, index: int, node: Node) -> Fact:
    """x^2 entry by entry (square, x * x, x ^ 2) and summed (sumsq, x @ x)."""
    operand = node.args[0]
    fact = setting.facts[operand]
    reduced = node.op in ("sumsq", "matmul")
    if fact.kind == AFFINE:
        floor = {leaf: 2 * g * g for leaf, g in fact.gain.items()}
        made = Fact(QUADRATIC, True, False, argument=fact.argument, place=fact.place, floor=floor)
    else:
        limits = setting.bound(operand)
        convex = (fact.convex and limits.nonnegative) or (fact.concave and limits.nonpositive)
        entrywise = fact.argument is not None and fact.kind <= GLM
        if entrywise:
            names = frozenset({_phi("square", fact)})
            made = Fact(GLM, convex, False, names, False, fact.argument, fact.place)
        else:
            made = Fact(OTHER, convex, False)
    if not reduced:
        return made
    return replace(made, argument=None, place=None, diagonal=made.place is not None)


def _pow(setting: Setting, index: int, node: Node) -> Fact:
    base, exponent = node.args
    if setting.facts[exponent].kind != CONSTANT:
        return UNKNOWN
    value = setting.graph[exponent].attr("value")
    if value == 1:
        return setting.facts[base]
    if value == 2:
        return _square(setting, index, node)
    limits, fact = setting.bound(base), setting.facts[base]
    even = isinstance(value, (int, float)) and value > 0 and float(value) % 2 == 0
    bent = isinstance(value, (int, float)) and limits.nonnegative
    convex = even or (bent and value > 1) or (bent and limits.positive and value < 0)
    concave = bent and 0 < value < 1
    affine = fact.kind == AFFINE
    return _composed(setting, index, node, "pow", convex and affine, concave and affine)


def _composed(
    setting: Setting, index: int, node: Node, name: str, convex: bool, concave: bool
) -> Fact:
    """phi of one operand that is affine, or a function of one affine argument already."""
    operand = setting.facts[node.args[0]]
    place = operand.place if OPS[node.op].fusion == "pointwise" else None
    if OPS[node.op].smooth != "smooth" or operand.kind > GLM or operand.argument is None:
        return Fact(OTHER, convex, concave)
    return Fact(
        GLM, convex, concave, frozenset({_phi(name, operand)}), False, operand.argument, place
    )


def _phi(name: str, operand: Fact) -> str:
    """`square(sigmoid)` for a function of a function."""
    if operand.kind == AFFINE:
        return name
    return f"{name}({' '.join(sorted(operand.phis)) or 'square'})"


def _function(setting: Setting, index: int, node: Node) -> Fact:
    """A function of one operand, by the composition rules."""
    operand, limits = setting.facts[node.args[0]], setting.bound(node.args[0])
    convex, concave, moves = SHAPES.get(node.op, (False, False, 0))
    if node.op == "leaky_relu":
        convex = 0 <= node.attr("slope") <= 1
    if node.op in ("abs", "norm"):
        moves = 1 if limits.nonnegative else -1 if limits.nonpositive else 0
    affine = operand.kind <= AFFINE
    follows = affine or (moves > 0 and operand.convex) or (moves < 0 and operand.concave)
    against = affine or (moves > 0 and operand.concave) or (moves < 0 and operand.convex)
    fact = _composed(setting, index, node, node.op, convex and follows, concave and against)
    rows = node.op in ("logsumexp", "log_softmax", "softmax", "norm", "amax", "amin")
    if rows and fact.kind == GLM:
        # Row by row is still a function of the affine argument, but not entry by entry.
        return replace(fact, argument=None, place=None)
    return fact


def _elu(setting: Setting, index: int, node: Node) -> Fact:
    operand = setting.facts[node.args[0]]
    return Fact(OTHER, 0 <= node.attr("alpha") <= 1 and operand.convex, False)


def _extreme(setting: Setting, index: int, node: Node) -> Fact:
    left, right = (setting.facts[a] for a in node.args)
    highest = node.op == "maximum"
    convex = highest and left.convex and right.convex
    return Fact(OTHER, convex, not highest and left.concave and right.concave)


def _where(setting: Setting, index: int, node: Node) -> Fact:
    """A choice by a constant condition."""
    condition, x, y = node.args
    if setting.facts[condition].kind > CONSTANT:
        return UNKNOWN
    result = _joined(setting, index, node, setting.facts[x], setting.facts[y])
    return replace(result, argument=index if result.kind == AFFINE else None)


def _matmul(setting: Setting, index: int, node: Node) -> Fact:
    x, y = node.args
    if x == y and len(setting.shape(x)) == 1:
        return _square(setting, index, node)
    left, right = setting.facts[x], setting.facts[y]
    if CONSTANT in (left.kind, right.kind):
        moving, factor = (left, y) if right.kind == CONSTANT else (right, x)
        if moving.kind == AFFINE:
            return Fact(AFFINE, argument=index)
        scaled = _scaled(moving, setting.bound(factor))
        return replace(scaled, argument=None, place=None, gain={}, floor={}, definite=frozenset())
    if left.kind == right.kind == AFFINE:
        return Fact(QUADRATIC, False, False)
    return UNKNOWN


def _loss(setting: Setting, index: int, node: Node) -> Fact:
    """bce and xent: convex in affine logits for any targets that are constant."""
    logits, targets = node.args
    if setting.facts[targets].kind > CONSTANT:
        return UNKNOWN
    fact = setting.facts[logits]
    mass = node.op == "bce" or setting.bound(targets).nonnegative or _labels(setting, targets)
    convex = fact.kind <= AFFINE and mass
    made = _composed(setting, index, node, node.op, convex, False)
    return made if node.op == "bce" else replace(made, argument=None, place=None)


def _labels(setting: Setting, targets: int) -> bool:
    type_ = setting.graph[targets].type
    return isinstance(type_, Tensor) and type_.kind == "int"


def _linear(setting: Setting, index: int, node: Node) -> Fact:
    """diag; solve with a constant matrix: affine stays affine."""
    operand = node.args[-1]
    if setting.facts[node.args[0]].kind > CONSTANT and node.op == "solve":
        return UNKNOWN
    affine = setting.facts[operand].kind <= AFFINE
    return Fact(AFFINE, argument=index) if affine else UNKNOWN


Rule: TypeAlias = Callable[[Setting, int, Node], Fact]
RULES: dict[str, Rule] = {
    "add": _add,
    "sub": _add,
    "neg": _neg,
    "mul": _mul,
    "div": _div,
    "square": _square,
    "sumsq": _square,
    "pow": _pow,
    "elu": _elu,
    "maximum": _extreme,
    "minimum": _extreme,
    "where": _where,
    "matmul": _matmul,
    "bce": _loss,
    "xent": _loss,
    "diag": _linear,
    "solve": _linear,
}
