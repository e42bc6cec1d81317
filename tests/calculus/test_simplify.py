"""Simplification gives the formula a person would write, and never another value."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
import torch
from operator_cases import compiled

from bettyc.calculus.hoist import hoist
from bettyc.calculus.products import Opaque, directions, gradient, product
from bettyc.calculus.simplify import FOLD, simplify, without_zeros
from bettyc.emit import function, titles
from bettyc.expr import Graph, Node
from bettyc.ops import OPS
from bettyc.ops.term import Term
from bettyc.types import REAL, Tensor, number, symbol

N, D = symbol("n"), symbol("d")


class World:
    def __init__(self) -> None:
        self.graph = Graph()
        self.x, self.y = self.leaf("x", (D,)), self.leaf("y", (D,))
        self.s, self.r = self.leaf("s", ()), self.leaf("r", ())
        self.X = self.leaf("X", (N, D))

    def leaf(self, name: str, shape: tuple[object, ...]) -> Term:
        type_ = Tensor("real", shape)  # type: ignore[arg-type]
        return Term(self.graph, self.graph.leaf("var", type_, level="l", name=name))

    def simple(self, term: Term) -> str:
        (index,) = simplify(self.graph, [term.index])
        assert self.graph[index].type == term.node.type
        return text(self.graph, index)


def text(graph: Graph, index: int) -> str:
    """The expression in one line."""
    node = graph[index]
    if node.op == "const":
        return f"{node.attr('value'):g}"
    if not node.args:
        return str(node.attr("name") or node.op)
    return f"{node.op}({', '.join(text(graph, a) for a in node.args)})"


IDENTITIES: list[tuple[Callable[[World], Term], str]] = [
    (lambda v: v.x + 0.0, "x"),
    (lambda v: 0.0 + v.x, "x"),
    (lambda v: v.y + v.x, "add(x, y)"),
    (lambda v: v.x + v.x, "mul(2, x)"),
    (lambda v: 2.0 * v.x + 3.0 * v.x, "mul(5, x)"),
    (lambda v: v.x + -v.y, "sub(x, y)"),
    (lambda v: -v.x + v.y, "sub(y, x)"),
    (lambda v: v.x - 0.0, "x"),
    (lambda v: v.x.constant(0.0) - v.x, "neg(x)"),
    (lambda v: v.x - -v.y, "add(x, y)"),
    (lambda v: v.x - v.x, "expand(0)"),
    (lambda v: 3.0 * v.x - v.x, "mul(2, x)"),
    (lambda v: v.x * 0.0, "expand(0)"),
    (lambda v: v.x * 1.0, "x"),
    (lambda v: v.x * -1.0, "neg(x)"),
    (lambda v: v.x * 2.0 * 3.0, "mul(6, x)"),
    (lambda v: (2.0 * v.x) * (3.0 * v.y), "mul(6, mul(x, y))"),
    (lambda v: -v.x * v.y, "neg(mul(x, y))"),
    (lambda v: v.y * v.x, "mul(x, y)"),
    (lambda v: v.x * v.s, "mul(s, x)"),
    (lambda v: v.x * v.x, "square(x)"),
    (lambda v: v.x * (1.0 / v.y), "div(x, y)"),
    (lambda v: v.x / 2.0, "mul(0.5, x)"),
    (lambda v: v.x / v.s / v.r, "div(x, mul(s, r))"),
    (lambda v: (2.0 * v.x) / v.y, "mul(2, div(x, y))"),
    (lambda v: v.x / (2.0 * v.y), "mul(0.5, div(x, y))"),
    (lambda v: v.x.call("neg").call("neg"), "x"),
    (lambda v: -(v.x - v.y), "sub(y, x)"),
    (lambda v: v.x**1.0, "x"),
    (lambda v: v.x**2.0, "square(x)"),
    (lambda v: v.x**0.5, "sqrt(x)"),
    (lambda v: v.x**-1.0, "div(1, x)"),
    (lambda v: v.x**0.0, "expand(1)"),
    (lambda v: (-v.x).call("square"), "square(x)"),
    (lambda v: v.x.call("exp").call("log"), "x"),
    (lambda v: v.s.constant(2.0).call("exp"), "7.38906"),
    (lambda v: v.s.constant(1.0) / v.s.constant(0.0), "div(1, 0)"),
    (lambda v: (v.s * v.x).sum(), "mul(s, sum(x))"),
    (lambda v: (v.x / v.s).call("mean"), "div(mean(x), s)"),
    (lambda v: v.x.call("square").sum(), "sumsq(x)"),
    (lambda v: (v.s * v.X) @ v.x, "mul(s, matmul(X, x))"),
    (lambda v: v.X @ (v.x * -3.0), "mul(-3, matmul(X, x))"),
    (lambda v: v.X @ (v.x / v.s), "div(matmul(X, x), s)"),
    (lambda v: v.X @ (v.x * 0.0), "expand(0)"),
    (lambda v: v.X @ (v.x / v.y), "matmul(X, div(x, y))"),
    (lambda v: (v.x / v.y).sum(), "sum(div(x, y))"),
    (lambda v: v.x.call("gt", 0.0).call("where", 0.0 * v.x, 0.0 * v.y), "expand(0)"),
    (lambda v: v.x.call("gt", 0.0).call("where", v.x, v.y), "where(gt(x, 0), x, y)"),
    (lambda v: v.X.mT().mT(), "X"),
    (lambda v: v.s.expand_to((D,)) * v.x, "mul(s, x)"),
    (lambda v: v.s.expand_to((D,)).call("exp"), "expand(exp(s))"),
    (lambda v: v.s.expand_to((D,)).call("mean"), "s"),
    (lambda v: v.s.expand_to((D,)).sum(), "mul(s, size)"),
    (lambda v: v.x.expand_to((N, D)).sum(0), "mul(size, x)"),
    (lambda v: v.x.expand_to((N, D)).sum(), "sum(expand(x))"),
    (lambda v: v.s.expand_to((D, D)).index_with(("all",), ("at", 0)), "expand(s)"),
    (lambda v: v.x.index_with(("all",)), "x"),
    (lambda v: v.x.call("gt", 0.0).call("where", v.y, v.y), "y"),
    (lambda v: v.x.call("concat", v.x) * 0.0, "expand(0)"),
    (lambda v: (v.x * 0.0).call("concat", v.y * 0.0), "expand(0)"),
]


@pytest.mark.parametrize(("formula", "expected"), IDENTITIES, ids=[e for _, e in IDENTITIES])
def test_identities(formula: Callable[[World], Term], expected: str) -> None:
    world = World()
    assert world.simple(formula(world)) == expected


@pytest.mark.parametrize("op", sorted(FOLD))
def test_folded_numbers_are_those_of_torch(op: str) -> None:
    for numbers in ((0.7, 2.5), (2.5, 0.7), (-1.3, 2.0), (-2.5, -2.0), (0.0, 3.0)):
        world = World()
        operands = [world.s.constant(v) for v in numbers[: len(OPS[op].parameters)]]
        term = operands[0].call(op, *operands[1:])
        (folded,) = simplify(world.graph, [term.index])
        expected = compiled(world.graph, [term.index], [])().item()
        if world.graph[folded].op == "const":
            assert world.graph[folded].attr("value") == pytest.approx(expected, rel=1e-6)
        else:
            assert not math.isfinite(expected)


@pytest.mark.parametrize("seed", range(60))
def test_values_stay(seed: int) -> None:
    rng, world = random.Random(seed), World()
    pool = [world.x, world.y, world.s, world.s.constant(rng.choice((0.0, 1.0, -1.0, 2.0)))]
    pool.append(world.s.expand_to((D,)))
    for _ in range(12):
        if rng.random() < 0.4:
            op = rng.choice(("neg", "exp", "square", "tanh", "sum", "mean"))
            pool.append(rng.choice(pool).call(op))
        else:
            op = rng.choice(("add", "sub", "mul", "mul", "div"))
            pool.append(rng.choice(pool).call(op, rng.choice(pool)))
    roots = [t.index for t in pool]
    simple = simplify(world.graph, roots)
    torch.manual_seed(seed)
    values = [torch.randn(5, dtype=torch.float64) for _ in "xy"] + [torch.tensor(1.3).double()]
    names = ["x", "y", "s", "d"]
    before = compiled(world.graph, roots, names)(*values, 5)
    after = compiled(world.graph, simple, names)(*values, 5)
    for a, b in zip(before, after, strict=True):
        sound = a.isfinite() & b.isfinite()  # 0 * inf is 0 to us
        torch.testing.assert_close(a[sound], b[sound], rtol=1e-9, atol=1e-9)
    again = simplify(world.graph, simple)
    assert again == simple


def logistic() -> tuple[Graph, int, Term, Term]:
    """Example (a): logistic regression with a decay per coordinate."""
    graph = Graph()

    def leaf(op: str, type_: Tensor, **attrs: str) -> Term:
        return Term(graph, graph.leaf(op, type_, **attrs))

    x = leaf("data", Tensor("real", (N, D)), data="train", field="x", name="x")
    y = leaf("data", Tensor("int", (N,), number(2)), data="train", field="y", name="y")
    w = leaf("var", Tensor("real", (D,)), level="fit", name="w")
    log_wd = leaf("var", Tensor("real", (D,)), level="tune", name="log_wd")
    decay = 0.5 * (log_wd.call("exp") * w**2.0).sum()
    return graph, ((x @ w).call("bce", y).call("mean") + decay).index, w, log_wd


def leaf_name(index: int, node: Node) -> str:
    return str(node.attr("name"))


def test_the_gradient_of_logistic_regression_is_the_textbook_one() -> None:
    graph, objective, w, log_wd = logistic()
    found = gradient(graph, objective, [w.index])
    assert not isinstance(found, Opaque)
    assert text(graph, found[0]) == (
        "add(div(matmul(permute(x), sub(sigmoid(matmul(x, w)), real(y))), size), "
        "mul(w, exp(log_wd)))"
    )
    v = directions(graph, [w.index])
    cross = product(graph, objective, [log_wd.index], v)
    assert not isinstance(cross, Opaque)
    assert text(graph, cross[0]) == "mul(exp(log_wd), mul(w, v))"


def test_the_hessian_product_hoists_all_but_two_matrix_products() -> None:
    graph, objective, w, _ = logistic()
    v = directions(graph, [w.index])
    found = product(graph, objective, [w.index], v)
    assert not isinstance(found, Opaque)
    hoisted = hoist(graph, found, v.values())
    names = titles(graph, hoisted.prologue)
    once = function(graph, hoisted.prologue, name="once", leaf=leaf_name, autograd=False)
    each = function(graph, hoisted.roots, name="each", leaf=leaf_name, autograd=False, given=names)
    assert once.count("torch.sigmoid") == 1
    assert "sigmoid" not in each.split(":", 1)[1].replace("fixed_", "")
    assert each.count("@") == 2
    torch.manual_seed(0)
    x, y = torch.randn(6, 4).double(), torch.tensor([0, 1, 1, 0, 1, 0])
    point = {"x": x, "y": y, "w": torch.randn(4).double(), "log_wd": torch.randn(4).double()}
    values = {"v": torch.randn(4).double(), **point}
    space: dict[str, object] = {"torch": torch}
    exec(once + each, space)

    def call(name: str, known: dict[str, torch.Tensor]) -> object:
        code = space[name].__code__  # type: ignore[attr-defined]
        return space[name](**{a: known[a] for a in code.co_varnames[: code.co_argcount]})  # type: ignore[operator]

    fixed = dict(zip((names[i] for i in hoisted.prologue), call("once", point), strict=True))  # type: ignore[call-overload]
    p = torch.sigmoid(x @ point["w"])
    hessian = x.T @ torch.diag(p * (1 - p)) @ x / 6 + torch.diag(point["log_wd"].exp())
    torch.testing.assert_close(call("each", {**values, **fixed}), hessian @ values["v"])


def test_zero_gradients_have_the_type_of_the_variable() -> None:
    graph, objective, w, _ = logistic()
    other = graph.leaf("var", Tensor("real", (N, D)), level="z", name="z")
    found = gradient(graph, objective, [other, w.index])
    assert not isinstance(found, Opaque)
    assert graph[found[0]].type == graph[other].type
    assert text(graph, found[0]) == "expand(0)"


def test_networks_from_python_are_reported_with_their_cotangent() -> None:
    graph, objective, w, _ = logistic()
    net = graph.leaf("module", REAL, level="fit", name="net")
    out = Term(graph, graph.make("apply", [net, w.index], Tensor("real", (N,))))
    root = (Term(graph, objective) + 3.0 * out.call("mean")).index
    found = gradient(graph, root, [w.index, net])
    assert found == Opaque(frozenset({w.index, net}))
    from bettyc.calculus.reverse import reverse

    swept = reverse(graph, root, [w.index, net])
    (cotangent,) = simplify(graph, [swept.cuts[out.index]])
    assert text(graph, cotangent) == "expand(div(3, size))"
    assert str(graph[cotangent].type) == "real[n]"
    # What does not pass through the network keeps its formula.
    _, _, _, log_wd = logistic()
    assert not isinstance(gradient(graph, root, [log_wd.index]), Opaque)


def test_only_formulas_with_something_times_zero_are_rewritten() -> None:
    world = World()
    off = world.s.constant(0.5) * world.s.constant(0.0) * (world.x - world.y).call("sumsq")
    loss = (world.x + 0.0).call("sumsq")
    assert text(world.graph, without_zeros(world.graph, (loss + off).index)) == "sumsq(x)"
    assert without_zeros(world.graph, loss.index) == loss.index
    on = loss + world.s.constant(0.5) * (world.x - world.y).call("sumsq")
    assert without_zeros(world.graph, on.index) == on.index
