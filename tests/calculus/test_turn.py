"""Transposes of products are moved into them: equal values, and no transpose outside."""

from __future__ import annotations

import pytest
import torch

from bettyc.calculus.turn import turn
from bettyc.emit import function
from bettyc.expr import Graph
from bettyc.ops.term import Term
from bettyc.types import Tensor, number

SIZES = {"A": (4, 2), "B": (4, 3), "C": (4, 2), "D": (4, 3)}


def world() -> tuple[Graph, dict[str, Term]]:
    graph = Graph()
    leaves = {
        name: Term(
            graph,
            graph.leaf("var", Tensor("real", tuple(map(number, shape))), level="l", name=name),
        )
        for name, shape in SIZES.items()
    }
    return graph, leaves


CASES = {
    "product": lambda t: (t["A"].mT() @ t["B"]).mT(),
    "sum": lambda t: (t["A"].mT() @ t["B"] + t["C"].mT() @ t["D"]).mT(),
    "difference": lambda t: (t["A"].mT() @ t["B"] - t["C"].mT() @ t["D"]).mT(),
    "both": lambda t: (t["A"].mT() @ t["B"].mT().mT()).mT(),
}


@pytest.mark.parametrize("case", CASES)
def test_the_transpose_moves_inside(case):
    graph, leaves = world()
    term = CASES[case](leaves)
    (root,) = turn(graph, [term.index])
    assert graph[root].op != "permute"
    assert graph[root].type == term.node.type
    given = {n: torch.randn(s, dtype=torch.float64) for n, s in SIZES.items()}
    values = []
    for index in (term.index, root):
        text = function(
            graph, [index], name="f", leaf=lambda i, n: str(n.attr("name")), autograd=False
        )
        space: dict[str, object] = {"torch": torch}
        exec(text, space)
        names = text.partition("(")[2].partition(")")[0].split(", ")
        values.append(space["f"](*(given[n] for n in names)))  # type: ignore[operator]
    torch.testing.assert_close(*values)


def test_a_product_without_transposes_stays():
    graph, leaves = world()
    term = (leaves["A"] @ (leaves["A"].mT() @ leaves["B"])).mT()
    assert turn(graph, [term.index]) == [term.index]
