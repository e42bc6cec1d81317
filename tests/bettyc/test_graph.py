"""The graph of the nine programs against the table of the language, and its drawings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

import networkx
import pytest

from bettyc.driver import check, check_file
from bettyc.graph import _circuits, between, build, edges, graph_edges, paths
from bettyc.pictures import FORMATS, draw
from bettyc.pictures.layout import layout
from bettyc.pictures.text import order
from bettyc.plan import Edge

NINE = Path(__file__).parents[1] / "programs" / "nine"
# Order, edges as kind:from>to, paths: the table of section 3.0 of the language reference.
TABLE = {
    "a_logreg_hpo": ("fit < tune", "l2u:fit>tune u2l:tune>fit", ["tune fit tune"]),
    "b_hypercleaning": (
        "classifier < cleaner",
        "l2u:classifier>cleaner u2l:cleaner>classifier",
        ["cleaner classifier cleaner"],
    ),
    "c_meta_weight_net": (
        "student < weigher",
        "l2u:student>weigher u2l:weigher>student",
        ["weigher student weigher"],
    ),
    "d_darts": ("weights < arch", "l2u:weights>arch u2l:arch>weights", ["arch weights arch"]),
    "e_imaml": ("adapt < meta", "l2u:adapt>meta u2l:meta>adapt", ["meta adapt meta"]),
    "f_learning_by_ignoring": (
        "pretrain < finetune < reweight",
        "l2u:pretrain>finetune l2u:pretrain>reweight l2u:finetune>reweight u2l:reweight>pretrain",
        ["reweight pretrain reweight", "reweight pretrain finetune reweight"],
    ),
    "f2_hpo_of_hpo": (
        "fit < reg < prior",
        "l2u:fit>reg l2u:fit>prior u2l:prior>reg u2l:reg>fit implied:reg>prior",
        ["prior reg fit prior"],
    ),
    "g_adversarial": (
        "attack < defend",
        "l2u:attack>defend u2l:defend>attack",
        ["defend attack defend"],
    ),
    "h_actor_critic": (
        "critic < actor",
        "l2u:critic>actor u2l:actor>critic sampling:actor>critic",
        ["actor critic actor"],
    ),
}


def graph_of(text: str) -> networkx.MultiDiGraph[str]:
    checked = check(text, "p.mlo")
    assert not checked.errors, [d.message for d in checked.diagnostics]
    assert checked.model is not None
    assert checked.hierarchy is not None
    return build(checked.model, checked.hierarchy, checked.sources)


def example(name: str) -> networkx.MultiDiGraph[str]:
    return graph_of((NINE / f"{name}.mlo").read_text())


def ladder(k: int) -> str:
    """k diamonds one above the other: 2^k ways from the top to the bottom."""
    level = "level {name} {{ var v : real = 1  minimize {objective} {optimizer} }}"
    parts = []
    for i in range(k + 1):
        up = f"(v - b{i}.v - c{i}.v)^2" if i < k else "(v - 1)^2"
        down = f" + b{i - 1}*.v^2 + c{i - 1}*.v^2" if i else ""
        sgd = "optimizer = sgd(lr = 0.1) steps = 1 hypergrad = cg"
        parts.append(level.format(name=f"x{i}", objective=up + down, optimizer=sgd))
        if i < k:
            for side in "bc":
                objective = f"(v - x{i + 1}.v)^2 + x{i}*.v^2"
                parts.append(level.format(name=f"{side}{i}", objective=objective, optimizer=sgd))
    return "\n".join(parts)


@pytest.mark.parametrize("name", TABLE)
def test_order_edges_and_paths_are_those_of_the_table(name: str) -> None:
    graph = example(name)
    top = graph.graph["order"][-1]

    expected_order, expected_edges, expected_paths = TABLE[name]
    found = {f"{kind}:{a}>{b}" for a, b, kind in graph.edges(keys=True)}
    assert order(graph) == expected_order
    assert found == set(expected_edges.split())
    assert [" ".join(path) for path in paths(graph, top)] == expected_paths


@pytest.mark.parametrize("name", TABLE)
def test_every_edge_names_its_mention(name: str) -> None:
    lines = (NINE / f"{name}.mlo").read_text().splitlines()

    for edge in graph_edges(example(name)):
        assert lines[edge.line - 1][edge.column - 1 :].startswith(edge.text)
        assert edge.text
        star = "*." in edge.text
        assert star == (edge.kind == "l2u")


def test_paths_agree_with_networkx_on_a_ladder() -> None:
    graph = graph_of(ladder(3))
    for root in graph.nodes:
        inside = {root, *graph.graph["below"][root]}
        plain = networkx.DiGraph((a, b) for a, b, kind in graph.edges(keys=True)
                                 if kind in ("l2u", "u2l") and {a, b} <= inside)  # fmt: skip
        cycles = [c for c in networkx.simple_cycles(plain) if root in c]
        turned = {(*c[c.index(root) :], *c[: c.index(root)], root) for c in cycles}

        assert set(paths(graph, root, 10_000)) == turned


@pytest.mark.parametrize("seed", range(30))
def test_circuits_agree_with_networkx_on_random_graphs(seed: int) -> None:
    graph = networkx.gnp_random_graph(8, 0.3, seed=seed, directed=True)
    adjacent = {str(n): [str(m) for m in graph.successors(n)] for n in graph}
    cycles = [[str(n) for n in c] for c in networkx.simple_cycles(graph) if 0 in c]
    turned = {(*c[c.index("0") :], *c[: c.index("0")], "0") for c in cycles}

    found = list(_circuits(adjacent, "0"))
    assert len(found) == len(turned)
    assert set(found) == turned


def test_dead_ends_take_no_time() -> None:
    """Every way down this ladder that goes deeper than one diamond has to come back past itself."""
    graph = graph_of(ladder(24))
    began = time.perf_counter()

    assert len(paths(graph, "x24")) == 4
    assert time.perf_counter() - began < 1


@pytest.mark.parametrize(("k", "limit", "count"), [(5, 100, 32), (64, 100, 100)])
def test_paths_are_bounded(k: int, limit: int, count: int) -> None:
    """k diamonds that are only read downwards, and the top stars the bottom: 2^k paths."""
    levels = ["x0", *(f"{side}{i}" for i in range(1, k + 1) for side in "bcx")]
    graph = networkx.MultiDiGraph(order=levels, below=dict.fromkeys(levels, levels))
    for i in range(1, k + 1):
        for side in "bc":
            graph.add_edge(f"x{i}", f"{side}{i}", "u2l")
            graph.add_edge(f"{side}{i}", f"x{i - 1}", "u2l")
    graph.add_edge("x0", f"x{k}", "l2u")

    found = paths(graph, f"x{k}", limit)

    assert len(set(found)) == len(found) == count
    assert all(len(path) == 2 * k + 2 for path in found)


def test_the_other_kinds() -> None:
    frozen = graph_of("""
        level low { var v : real = 1  minimize (v - top.w)^2 }
        level top { var w : real = 1  minimize (detach(low*.v) - w)^2
                    optimizer = sgd(lr = 0.1) }""")
    game = graph_of("""
        level one { var x : real = 1  minimize x^2 + x * detach(two.y) optimizer = sgd(lr = 0.1) }
        level two { var y : real = 1  minimize y^2 - y * detach(one.x) optimizer = sgd(lr = 0.1) }
    """)

    both = graph_of("""
        level low { var v : real = 1  minimize (v - top.w)^2 }
        level top { var w : real = 1  minimize (detach(low*.v) - w)^2 + low*.v^2
                    optimizer = sgd(lr = 0.1) }""")

    assert {k for _, _, k in both.edges(keys=True)} == {"l2u", "u2l"}
    assert {(a, b, k) for a, b, k in frozen.edges(keys=True)} == {
        ("low", "top", "frozen"), ("top", "low", "u2l")}  # fmt: skip
    assert paths(frozen, "top") == []
    assert order(game) == "one, two"
    assert list(game.edges) == []


def test_size_is_a_number_a_formula_or_unknown() -> None:
    sizes = {n: example("b_hypercleaning").nodes[n]["size"] for n in ("classifier", "cleaner")}
    assert sizes == {"classifier": 784 * 10 + 10, "cleaner": "n"}
    assert example("c_meta_weight_net").nodes["student"]["size"] is None
    # a built-in network counts with its parameters: 1*100 + 100 + 100*1 + 1
    assert example("c_meta_weight_net").nodes["weigher"]["size"] == 301


def test_between_is_either_direction() -> None:
    checked = check_file(str(NINE / "a_logreg_hpo.mlo"))
    assert checked.model is not None
    assert checked.hierarchy is not None
    found = edges(checked.model, checked.hierarchy, checked.sources)

    assert between(found, "fit", "tune") == between(found, "tune", "fit") == list(found)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("name", TABLE)
def test_drawings_are_deterministic_and_name_all_levels(name: str, format_: str) -> None:
    graph = example(name)
    text = draw(graph, format_)

    assert text == draw(example(name), format_)
    assert text.endswith("\n")
    assert all(level in text for level in graph.nodes)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="formats: text, dot"):
        draw(example("a_logreg_hpo"), "png")


def test_json_is_the_graph() -> None:
    content = json.loads(draw(example("f2_hpo_of_hpo"), "json"))

    assert content["order"] == ["fit", "reg", "prior"]
    assert content["paths"]["prior"] == [["prior", "reg", "fit", "prior"]]
    assert {"name": "mu", "type": "real"} in content["levels"][2]["variables"]
    assert len(content["edges"]) == 5


AWKWARD = 'a "quoted" \\ name\n<b>&amp;</b> *x* [y] {z}|'


def awkward() -> networkx.MultiDiGraph[str]:
    """A graph whose texts have every character that a format could stumble over."""
    graph = example("a_logreg_hpo")
    graph.graph["name"] = AWKWARD
    graph.nodes["fit"]["variables"] = ((AWKWARD, AWKWARD),)
    for _, _, attributes in graph.edges(data=True):
        attributes["text"] = AWKWARD
    return graph


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
@pytest.mark.parametrize("name", [*TABLE, ""])
def test_graphviz_reads_dot(name: str) -> None:
    text = draw(example(name) if name else awkward(), "dot")
    done = subprocess.run(["dot", "-Tplain"], input=text, capture_output=True, text=True)

    assert (done.returncode, done.stderr) == (0, "")


def test_dot_and_mermaid_escape() -> None:
    dot, mermaid = draw(awkward(), "dot"), draw(awkward(), "mermaid")

    for line in dot.splitlines():
        assert len(re.findall(r'(?<!\\)(?:\\\\)*"', line)) % 2 == 0
    for line in mermaid.splitlines()[1:]:
        assert line.count('"') == 2
        assert not re.search(r"[<>&*{|]", re.sub(r"<b>|</b>|<br/>|-->|-\.->|\||#\d+;", "", line))


@pytest.mark.parametrize("name", [*TABLE, ""])
def test_svg_is_self_contained_and_described(name: str) -> None:
    root = ElementTree.fromstring(draw(example(name) if name else awkward(), "svg"))
    space = "{http://www.w3.org/2000/svg}"

    assert root.tag == f"{space}svg"
    assert root.find(f"{space}title") is not None
    description = root.findtext(f"{space}desc") or ""
    assert "lowest to the highest" in description
    style = root.findtext(f"{space}style") or ""
    assert "prefers-color-scheme: dark" in style
    assert not re.search(r"url\(|@import|href", ElementTree.tostring(root, encoding="unicode"))


def overlaps(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Do two boxes (x of the centre, y of the top, width, height) meet?"""
    return abs(a[0] - b[0]) < (a[2] + b[2]) / 2 and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]


@pytest.mark.parametrize("source", [*TABLE, "ladder 4"])
def test_layout_keeps_things_apart_and_the_high_above_the_low(source: str) -> None:
    graph = graph_of(ladder(4)) if source == "ladder 4" else example(source)
    levels, found = graph.graph["order"], graph_edges(graph)
    sizes = {name: (100.0 + 20 * len(name), 60.0) for name in levels}
    plan = layout(levels, graph.graph["below"], sizes, found, {e: 7.0 * len(e.text) for e in found})

    boxes = plan.boxes
    assert not any(overlaps(boxes[a], boxes[b]) for a in levels for b in levels if a != b)
    for name in levels:
        x, y, width, height = boxes[name]
        assert x - width / 2 >= 0
        assert x + width / 2 <= plan.width + 1e-6
        assert y + height <= plan.height + 1e-6
        assert all(boxes[lower][1] > y for lower in graph.graph["below"][name])
    assert {w.edge for w in plan.wires} == set(found)
    for wire in plan.wires:
        assert 0 <= wire.label[0] <= plan.width
        for end, name in ((wire.points[0], "start"), (wire.points[-1], "end")):
            ends = {"u2l": (wire.edge.upper, wire.edge.lower)}
            ends["sampling"] = ends["u2l"]
            start, stop = ends.get(wire.edge.kind, (wire.edge.lower, wire.edge.upper))
            x, y, width, height = boxes[start if name == "start" else stop]
            assert abs(end[0] - x) <= width / 2
            assert min(abs(end[1] - y), abs(end[1] - y - height)) < 1e-6


def test_layout_of_levels_in_one_row() -> None:
    edge = Edge("sampling", "one", "two", "p.mlo", 1, 1, "two.y")
    plan = layout(
        ["one", "two"],
        {"one": (), "two": ()},
        {"one": (90, 50), "two": (90, 50)},
        [edge],
        {edge: 40},
    )

    assert plan.boxes["one"][1] == plan.boxes["two"][1]
    (x0, y0), (x1, y1) = plan.wires[0].points
    assert y0 == y1
    assert abs(x0 - x1) > 1
