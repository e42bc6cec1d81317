"""Emitted text: deterministic, readable, parenthesised where Python needs it, names never clash."""

from __future__ import annotations

import random

import pytest
import torch
from operator_cases import compiled

from bettyc.emit import function
from bettyc.expr import Graph, Node
from bettyc.ops.term import Term
from bettyc.types import Tensor, number, symbol

N = symbol("n")


def leaf(index: int, node: Node) -> str:
    return str(node.attr("name"))


def var(graph: Graph, name: str, *shape: object, kind: str = "real") -> Term:
    return Term(graph, graph.leaf("var", Tensor(kind, shape), level="l", name=name))  # type: ignore[arg-type]


def test_text() -> None:
    graph = Graph()
    x, w = var(graph, "x", N, number(3)), var(graph, "w", number(3))
    loss = ((x @ w).call("softplus") * 2.0).call("mean") - w.call("sumsq") / 3.0
    text = function(graph, [loss.index], name="loss", leaf=leaf)
    assert text == (
        "def loss(x, w):\n"
        "    mean = torch.mean(torch.nn.functional.softplus(x @ w, 1, 40) * 2.0)  # real\n"
        "    return mean - torch.sum(torch.square(w)) / 3.0\n"
    )


def test_dims_are_read_off_the_arguments_or_written_as_numbers() -> None:
    graph = Graph()
    x = var(graph, "n", N)  # a variable with the name of a dim
    wide = x.call("sum").expand_to((N, N))
    text = function(graph, [wide.index], name="f", leaf=leaf)
    assert "n_2 = n.shape[0]" in text
    assert "torch.broadcast_to(torch.sum(n), (n_2, n_2))" in text
    assert "(4, 4)" in function(graph, [wide.index], name="f", leaf=leaf, sizes={"n": 4})
    scalar = var(graph, "s")
    alone = function(graph, [scalar.expand_to((symbol("m"),)).index], name="f", leaf=leaf)
    assert alone.startswith("def f(s, m):")


def test_detach_is_for_autograd_only() -> None:
    graph = Graph()
    x = var(graph, "x", N)
    stopped = x * x.call("detach")
    assert "x.detach()" in function(graph, [stopped.index], name="f", leaf=leaf)
    assert "x * x" in function(graph, [stopped.index], name="f", leaf=leaf, autograd=False)


def test_opaque_operators_are_called_as_the_caller_says() -> None:
    graph = Graph()
    x, net = var(graph, "x", N), graph.leaf("module", Tensor("real"), level="l", name="net")
    out = graph.make("apply", [net, x.index], Tensor("real", (N,)))
    body = graph.make("replicas", [out], Tensor("real", (N,)), level="l", reduce="mean")

    def opaque(index: int, node: Node, operands: object) -> str:
        assert isinstance(operands, list)
        return f"{node.op}({', '.join(operands)})"

    text = function(graph, [out], name="f", leaf=leaf, opaque=opaque)
    assert "out = apply(net, x)" in text
    whole = function(graph, [body], name="f", leaf=leaf, opaque=opaque)
    assert whole == "def f():\n    all_ = replicas()  # real[n]\n    return all_\n"
    with pytest.raises(ValueError, match="apply"):
        function(graph, [out], name="f", leaf=leaf)


def test_numbers_become_tensors_where_torch_wants_them() -> None:
    graph = Graph()
    x = var(graph, "x", N)
    half = x.constant(0.5)
    roots = [
        half.index,
        half.call("exp").index,
        (half + 1.0).index,
        x.call("maximum", 0.5).index,
        x.call("gt", 0.0).call("where", 1.0, 0.0).index,
        x.call("gt", 0.0).call("where", x, 0.0).index,
        (half / 0.0).index,
    ]
    value = torch.tensor([-1.0, 2.0], dtype=torch.float64)
    found = compiled(graph, roots, ["x"])(value)
    expected = [0.5, 0.5**0 * 1.6487212707001282, 1.5, [0.5, 2], [0, 1], [0, 2], float("inf")]
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float64
        torch.testing.assert_close(a, torch.tensor(b, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(40))
def test_parentheses(seed: int) -> None:
    """Random infix expressions mean the same as the graph they were written from."""
    rng, graph = random.Random(seed), Graph()
    names = ["a", "b", "c"]
    torch.manual_seed(seed)
    values = [torch.rand(3, dtype=torch.float64) + 0.5 for _ in names]
    pool = [(var(graph, n, number(3)), v) for n, v in zip(names, values, strict=True)]
    pool.append((pool[0][0].constant(-2.0), torch.tensor(-2.0).double()))
    for _ in range(7):
        (x, p), (y, q) = rng.choice(pool), rng.choice(pool)
        choices = [
            (x + y, p + q),
            (x - y, p - q),
            (x * y, p * q),
            (x / y, p / q),
            (-x, -p),
            (x.call("square") ** y, (p * p) ** q),
            (x.call("gt", y).call("not").call("real"), (~(p > q)).double()),
        ]
        pool.append(rng.choice(choices))
    term, expected = pool[-1]
    found = compiled(graph, [term.index], names)(*values)
    wide = expected.broadcast_to(found.shape)
    torch.testing.assert_close(found.double(), wide, rtol=1e-6, atol=1e-12, equal_nan=True)
    again = function(graph, [term.index], name="f", leaf=leaf)
    assert again == function(graph, [term.index], name="f", leaf=leaf)


def fused(term: Term) -> str:
    """What a fused function returns."""
    text = function(term.graph, [term.index], name="f", leaf=leaf, autograd=False, fused=True)
    return text.split("return ")[1].strip()


def test_fused_text_adds_products_in_one_call_and_writes_in_place() -> None:
    graph = Graph()
    n, d, k = (number(i) for i in (4, 3, 2))
    x, w, y = var(graph, "x", n, d), var(graph, "w", d), var(graph, "y", n)
    big, bias, wide = var(graph, "W", d, k), var(graph, "b", k), var(graph, "Z", n, k)
    assert fused((x @ w).call("sigmoid") - y) == "(x @ w).sigmoid_().sub_(y)"
    assert fused(y + x @ w) == "torch.addmv(y, x, w)"
    assert fused(x @ w - y) == "torch.addmv(y, x, w, beta=-1)"
    assert fused(y - 3.0 * (x @ w)) == "torch.addmv(y, x, w, alpha=-3)"
    assert fused(y - -(x @ w)) == "torch.addmv(y, x, w)"
    assert fused(w + (y @ x) / 8.0) == "torch.addmv(w, x.mT, y, alpha=0.125)"
    assert fused(y * y + x @ w) == "(y * y).addmv_(x, w)"
    assert fused(x @ big + bias) == "torch.addmm(b, x, W)"
    assert fused(wide * 2.0 - x @ big) == "(Z * 2.0).addmm_(x, W, alpha=-1)"
    product = x @ w
    assert "addmv" not in fused(product.call("exp") * (y + product))  # the product is read twice
    assert fused(y.call("exp") * 2.0) == "torch.exp(y).mul_(2.0)"
    assert fused(y - y.call("exp")) == "y - torch.exp(y)"
    assert fused(y.call("exp") + bias.sum()) == "torch.exp(y).add_(torch.sum(b))"
    assert fused(bias.call("exp").sum() + y) == "torch.sum(torch.exp(b)) + y"
    assert fused(y.index_with(("slice", 0, 2)) * bias) == "y[0:2] * b"  # a view of an argument
    with pytest.raises(ValueError, match="autograd"):
        function(graph, [product.index], name="f", leaf=leaf, fused=True)


def test_constants_of_a_function_without_arguments_lie_where_they_are_said_to() -> None:
    graph = Graph()
    eye = graph.make("eye", (), Tensor("real", (number(3), number(3))))
    text = function(graph, [eye], name="f", leaf=leaf, dtype="torch.float64", device='"cuda:0"')
    assert text.splitlines()[1:3] == ["    dtype = torch.float64", '    device = "cuda:0"']
