"""Shape rules: narrow broadcasting, symbolic dims, kinds and labels, and what each error says."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from operator_cases import parse

from bettyc.expr import Graph
from bettyc.ops import FUNCTIONS, OPS, ShapeError, build
from bettyc.ops.rules import broadcast
from bettyc.types import POISON, REAL, Module, Tensor, number, symbol


def typed(op: str, *operands: str, **attrs: Any) -> str:
    graph = Graph()
    leaves = [graph.leaf("var", parse(t), level="l", name=f"x{i}") for i, t in enumerate(operands)]
    made = build(graph, op, leaves, attrs) if op in FUNCTIONS else graph.add(op, *leaves, **attrs)
    return str(graph[made].type)


def refused(op: str, *operands: str, **attrs: Any) -> ShapeError:
    with pytest.raises(ShapeError) as caught:
        typed(op, *operands, **attrs)
    return caught.value


@pytest.mark.parametrize("ranks", list(itertools.product(range(4), repeat=2)))
def test_broadcasting_agrees_with_torch_where_it_is_allowed(ranks: tuple[int, int]) -> None:
    for left in itertools.product((1, 2, 3), repeat=ranks[0]):
        for right in itertools.product((1, 2, 3), repeat=ranks[1]):
            shapes = [tuple(number(d) for d in s) for s in (left, right)]
            found = broadcast(*shapes)
            if found is not None:
                assert [d.value for d in found] == list(torch.broadcast_shapes(left, right))
            elif ranks[0] == ranks[1]:
                with pytest.raises(RuntimeError):
                    torch.broadcast_shapes(left, right)
            else:
                short, long = sorted((left, right), key=len)
                assert long[len(long) - len(short) :] != short


def test_the_silent_square_is_an_error() -> None:
    error = refused("sub", "real[n]", "real[n, 1]")
    assert (error.code, error.operands) == ("MLO0402", (0, 1))
    assert str(error.fields["result"]) == "real[n, n]"
    assert error.hint == "write `a[:, new]` or `b[:, 0]`"
    assert refused("mul", "real[n, d]", "real[n]").hint == "write `b[:, new]`"
    assert typed("mul", "real[n, d]", "real[n, 1]") == "real[n, d]"
    assert typed("add", "real[1, d]", "real[n, 1]") == "real[n, d]"
    assert refused("add", "real[n]", "real[m]").hint is None


def test_symbolic_dims_are_equal_in_normal_form() -> None:
    graph = Graph()
    n = symbol("n")
    x = graph.leaf("var", Tensor("real", (n,)), level="l", name="x")
    y = graph.leaf("var", Tensor("real", (n,)), level="l", name="y")
    both = graph.add("concat", x, y)
    assert str(graph[both].type) == "real[2*n]"
    back = graph.add("index", both, spec=(("slice", (((("n"),), 1),), None),))
    assert str(graph[back].type) == "real[n]"
    assert str(graph[graph.add("sub", back, x)].type) == "real[n]"


@pytest.mark.parametrize(
    ("op", "operands", "code", "positions"),
    [
        ("matmul", ("real[n, d]", "real[m]"), "MLO0401", (0, 1)),
        ("matmul", ("real[n, d]", "real"), "MLO0401", (1,)),
        ("matmul", ("real[B, n, d]", "real[C, d, m]"), "MLO0401", (0, 1)),
        ("add", ("int<C>[n]", "real[n]"), "MLO0404", (0,)),
        ("mul", ("real[n]", "bool[n]"), "MLO0404", (1,)),
        ("exp", ("int<C>[n]",), "MLO0404", (0,)),
        ("sum", ("int<C>[n]",), "MLO0404", (0,)),
        ("lt", ("int<C>[n]", "real[n]"), "MLO0404", (0, 1)),
        ("eq", ("bool[n]", "int<3>[n]"), "MLO0404", (0, 1)),
        ("lt", ("bool[n]", "bool[n]"), "MLO0404", (0, 1)),
        ("and", ("bool[n]", "real[n]"), "MLO0404", (1,)),
        ("where", ("real[n]", "real[n]", "real[n]"), "MLO0404", (0,)),
        ("where", ("bool[n]", "real[n]", "bool[n]"), "MLO0414", (1, 2)),
        ("where", ("bool[n]", "real[n]", "real[m]"), "MLO0414", (1, 2)),
        ("where", ("bool[m]", "real[n]", "real[n]"), "MLO0402", (0, 1)),
        ("bce", ("real[n]", "int<3>[n]"), "MLO0405", (1, 0)),
        ("bce", ("real[n, 1]", "int<2>[n]"), "MLO0401", (0, 1)),
        ("xent", ("real[n, 65]", "int<10>[n]"), "MLO0405", (1, 0)),
        ("xent", ("real[n, C]", "int<C>[m]"), "MLO0401", (0, 1)),
        ("xent", ("real[n, C]", "bool[n]"), "MLO0404", (1,)),
        ("xent", ("real", "int<C>"), "MLO0418", (0,)),
        ("pick", ("real[n, 3]", "int<2>[n]"), "MLO0405", (1, 0)),
        ("pick", ("real[n, 3]", "real[n]"), "MLO0404", (1,)),
        ("pick", ("real[n, 3]", "int[m]"), "MLO0401", (0, 1)),
        ("accuracy", ("real[n, 3]", "int<2>[n]"), "MLO0405", (1, 0)),
        ("accuracy", ("real[n, 3]", "int<3>[m]"), "MLO0401", (0, 1)),
        ("accuracy", ("real[n, 3]", "real[n]"), "MLO0404", (1,)),
        ("one_hot", ("int[n]",), "MLO0404", (0,)),
        ("one_hot", ("real[n]",), "MLO0404", (0,)),
        ("concat", ("real[n, d]", "real[n, k]"), "MLO0401", (0, 1)),
        ("concat", ("real[n]", "int[n]"), "MLO0404", (0, 1)),
        ("stack", ("real[n]", "real[m]"), "MLO0401", (0, 1)),
        ("diag", ("real[n, m]",), "MLO0418", (0,)),
        ("diag", ("real",), "MLO0418", (0,)),
        ("trace", ("real[n]",), "MLO0418", (0,)),
        ("transpose", ("real[n]",), "MLO0418", (0,)),
        ("inv", ("real[n, m]",), "MLO0418", (0,)),
        ("solve", ("real[n, n]", "real[m]"), "MLO0401", (0, 1)),
        ("dot", ("real[n, n]", "real[n]"), "MLO0418", (0,)),
        ("outer", ("real[n]", "real[n, n]"), "MLO0418", (1,)),
        ("softmax", ("real",), "MLO0417", (0,)),
        ("sqdist", ("real[n, d]", "real[m, k]"), "MLO0401", (0, 1)),
        ("straight_through", ("real[n]", "real[m]"), "MLO0401", (0, 1)),
    ],
)
def test_errors(op: str, operands: tuple[str, ...], code: str, positions: tuple[int, ...]) -> None:
    error = refused(op, *operands)
    assert (error.code, error.operands) == (code, positions)


@pytest.mark.parametrize(
    ("op", "attrs", "code"),
    [
        ("sum", {"axis": 2}, "MLO0417"),
        ("softmax", {"axis": -3}, "MLO0417"),
        ("argmax", {"axis": (0, 1)}, "MLO0417"),
        ("prod", {"axis": (0, 1)}, "MLO0417"),
        ("stack", {"axis": 3}, "MLO0417"),
        ("permute", {"axes": (0, 0)}, "MLO0418"),
        ("reshape", {"shape": (3, 3)}, "MLO0401"),
        ("index", {"spec": (("at", 4),)}, "MLO0406"),
        ("index", {"spec": (("at", -5),)}, "MLO0406"),
        ("index", {"spec": (("slice", 0, 5),)}, "MLO0406"),
        ("index", {"spec": (("slice", 3, 2),)}, "MLO0406"),
        ("index", {"spec": (("all",), ("all",), ("all",))}, "MLO0407"),
    ],
)
def test_errors_of_attributes(op: str, attrs: dict[str, Any], code: str) -> None:
    assert refused(op, "real[4, d]", **attrs).code == code


def test_labels_that_are_out_of_range_for_an_axis() -> None:
    error = refused("index", "real[3]", "int<4>[n]", spec=(("take", 1),))
    assert (error.code, error.operands) == ("MLO0406", (0, 1))
    assert typed("index", "real[4, d]", "int<4>[n]", spec=(("take", 1),)) == "real[n, d]"


def test_results() -> None:
    assert typed("mul", "int[n]", "int") == "int[n]"
    assert typed("div", "int[n]", "int") == "real[n]"
    assert typed("mul", "int[n]", "real") == "real[n]"
    assert typed("eq", "int<C>[n]", "int") == "bool[n]"
    assert typed("argmax", "real[n, C]", axis=-1) == "int<C>[n]"
    assert typed("argmax", "real[n, C]") == "int"
    assert typed("mean", "bool[n]") == "real"
    assert typed("int", "int<C>[n]") == "int[n]"
    assert typed("one_hot", "int<C>[n]") == "real[n, C]"
    assert typed("index", "int<C>[n, d]", spec=(("all",), ("at", 0))) == "int<C>[n]"
    assert typed("where", "bool", "int<C>[n]", "int<C>[n]") == "int<C>[n]"
    assert typed("flatten", "real[n, 3, 4]") == "real[n, 12]"


def test_networks_are_not_tensors_and_poison_is_silent() -> None:
    graph = Graph()
    net = graph.leaf("module", Module((REAL,), REAL), level="l", name="net")
    bad = graph.leaf("var", POISON, level="l", name="bad")
    good = graph.leaf("var", Tensor("real", (symbol("n"),)), level="l", name="good")
    with pytest.raises(ShapeError) as caught:
        graph.add("exp", net)
    assert caught.value.code == "MLO0408"
    for name, row in OPS.items():
        if row.parameters and not row.internal and name not in ("apply", "params", "extern_fn"):
            count = sum(p.operand for p in row.parameters)
            args = [bad, *[good] * (count - 1)]
            assert graph[graph.add(name, *args)].type == POISON, name


def test_equal_expressions_are_one_node() -> None:
    graph = Graph()
    n = symbol("n")
    x = graph.leaf("var", Tensor("real", (n, n)), level="l", name="x")
    two, two_real = (
        graph.leaf("const", Tensor("int"), value=2),
        graph.leaf("const", REAL, value=2.0),
    )
    assert (
        graph.add("softmax", x)
        == graph.add("softmax", x, axis=1)
        == graph.add("softmax", x, axis=-1)
    )
    assert graph.add("mul", x, two) == graph.add("mul", x, two_real)
    assert graph.add("sum", x, axis=(1, 0)) == graph.add("sum", x, axis=(0, -1))
    assert graph.add("sum", x, axis=0) != graph.add("sum", x, axis=1)
