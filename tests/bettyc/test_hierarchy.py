"""Who is above whom: forgotten stars, detached reads, loops; the sweep and its definition."""

from __future__ import annotations

import random
from graphlib import CycleError

import networkx
import pytest
from reading import NINE, codes, errors, read, shown

from bettyc.diagnostics.apply import apply_edits
from bettyc.diagnostics.span import Span
from bettyc.grammar import ast
from bettyc.grammar.parse import parse
from bettyc.hierarchy import Mentions
from bettyc.inference import infer
from bettyc.model import Read

GAME = """
level p {{
  var x : real = 1
  minimize (x - {q})^2 + x^2
  optimizer = sgd(lr = 0.1)
}}
level q {{
  var y : real = 1
  minimize (y + {p})^2 + y^2
  optimizer = sgd(lr = 0.1)
}}
"""


def game(q: str, p: str) -> str:
    return GAME.format(q=q, p=p)


def stars(text: str) -> list[ast.Response]:
    file = parse(text, "p.mlo").file
    return [n for item in file.items for n in ast.walk(item) if isinstance(n, ast.Response)]


STARS = [(name, k) for name, text in NINE.items() for k in range(len(stars(text)))]


def test_the_nine_programs_have_fourteen_stars_and_no_errors():
    assert len(STARS) == 14
    assert all(codes(text) == [] for text in NINE.values())


@pytest.mark.parametrize(("name", "k"), STARS)
def test_a_forgotten_star_is_an_error(name, k):
    """MLO0319, or MLO0213 where the same level keeps another star in that objective."""
    text = NINE[name]
    dropped = stars(text)[k]
    start = dropped.star.start
    level = next(i for i in parse(text, "p.mlo").file.items if isinstance(i, ast.Level)
                 and i.span.start <= start < i.span.end)  # fmt: skip
    others = [s for s in ast.walk(level) if isinstance(s, ast.Response) and s.star != dropped.star]
    kept = any(s.base.id == dropped.base.id for s in others)

    found = shown(text[:start] + text[start + 1 :])

    assert [d.code for d in found] == ["MLO0213" if kept else "MLO0319"]
    span = found[0].span
    assert (text[:start] + text[start + 1 :])[span.start : span.end].count(".") == 1
    # the first suggestion puts the star back
    cure = apply_edits(text[:start] + text[start + 1 :], list(found[0].suggestions[0].edits))
    assert cure == text


def test_a_two_player_game_with_bare_reads_offers_three_edits_that_all_work():
    text = game("q.y", "p.x")

    (found,) = shown(text)

    assert found.code == "MLO0319"
    cured = [apply_edits(text, list(s.edits)) for s in found.suggestions]
    assert cured == [game("q*.y", "p.x"), game("q.y", "p*.x"), game("detach(q.y)", "detach(p.x)")]
    assert [codes(c) for c in cured] == [[], [], []]


@pytest.mark.parametrize(
    ("q", "p", "order"),
    [
        ("q*.y", "p.x", ("q", "p")),
        ("q.y", "p*.x", ("p", "q")),
        ("detach(q*.y)", "p.x", ("q", "p")),
        ("detach(q.y)", "detach(p.x)", ("p", "q")),  # the order is free: by name
    ],
)
def test_stars_decide_the_order(q, p, order):
    found = read(game(q, p))

    assert not found.errors
    assert found.hierarchy.order == order


@pytest.mark.parametrize(
    ("q", "p", "code"),
    [
        ("q*.y", "p*.x", "MLO0301"),
        ("detach(q*.y)", "p*.x", "MLO0301"),
        ("q.y", "0", "MLO0319"),
        ("q.y", "detach(p.x)", "MLO0319"),
        ("p*.x", "p.x", "MLO0302"),
    ],
)
def test_what_has_no_order_is_refused(q, p, code):
    assert code in errors(game(q, p))


def test_detach_as_the_only_link_leaves_the_upper_level_without_a_gradient():
    text = NINE["a_logreg_hpo"].replace("nll(fit*.w, val)", "nll(detach(fit*.w), val)")

    assert errors(text) == ["MLO0310"]


def test_a_level_that_nothing_below_reads_gets_no_gradient():
    text = NINE["a_logreg_hpo"].replace("exp(tune.log_wd) * w^2", "w^2")

    assert errors(text) == ["MLO0311"]


def test_two_levels_that_would_each_be_implied_below_the_other():
    text = """
    level low { var w : real = 0  minimize (w - a.x)^2 + (w - b.y)^2 }
    level a { var x : real = 0  minimize (low*.w - 1)^2 + (x - b.y)^2  optimizer = adam }
    level b { var y : real = 0  minimize (low*.w - 2)^2 + (y - a.x)^2  optimizer = adam }
    """

    assert errors(text) == ["MLO0305"]


def mentions(graph: dict[str, dict[str, str]]) -> list[Mentions]:
    """`graph[p][q]` is how p reads q: "response", "value" or "frozen"."""
    made = []
    for p, reads in graph.items():
        found = [
            Read(q, "v", "value" if mode == "value" else "response", mode == "frozen",
                 Span("p.mlo", 0, 3)) for q, mode in reads.items()
        ]  # fmt: skip
        made.append(Mentions(p, tuple(found)))
    return made


def random_program(rng: random.Random) -> dict[str, dict[str, str]]:
    """Levels that star levels of a lower number and read the values of higher ones."""
    size = rng.randint(2, 7)
    names = [f"l{k}" for k in range(size)]
    program: dict[str, dict[str, str]] = {n: {} for n in names}
    for i, p in enumerate(names):
        for j, q in enumerate(names):
            if i != j and rng.random() < 0.35:
                lower = "frozen" if rng.random() < 0.15 else "response"
                program[p][q] = lower if j < i else "value"
    return program


def moves(program: dict[str, dict[str, str]], below: dict, level: str, on: str) -> bool:
    """Does the solution of `level` move with `on`? By its definition, as a reachability."""
    graph = networkx.DiGraph()
    graph.add_nodes_from(program)
    for p, reads in program.items():
        for q, mode in reads.items():
            if mode == "response" or (mode == "value" and (q == on or q in below[on])):
                graph.add_edge((p), q)
    graph.remove_edges_from([(a, b) for a, b in list(graph.edges) if a == on])
    return networkx.has_path(graph, level, on) and any(
        program[a].get(on) == "value" and (a == level or networkx.has_path(graph, level, a))
        for a in program
    )


def test_arrows_and_sweeps_of_random_programs_are_those_of_the_definition():
    rng = random.Random(0)
    orders = 0
    for _ in range(400):
        program = random_program(rng)
        h, wrong = infer(mentions(program))
        if wrong:
            continue
        orders += 1
        for position, p in enumerate(h.order):
            assert not h.below[p] & set(h.order[position:])
        for root in h.levels:
            inside = h.below[root] | {root}
            arrows = networkx.DiGraph()
            arrows.add_nodes_from(inside)
            for q in h.below[root]:
                for r, mode in program[q].items():
                    flows = mode == "value" or (
                        mode == "response" and not moves(program, h.below, r, q)
                    )
                    if flows and r in inside:
                        arrows.add_edge(q, r)
            starred = [q for q, mode in program[root].items() if mode == "response"]
            useful = {
                q
                for q in arrows
                if q != root
                and networkx.has_path(arrows, q, root)
                and any(s in arrows and networkx.has_path(arrows, s, q) for s in starred)
            }
            relation = networkx.DiGraph(arrows.subgraph(useful))
            if not networkx.is_directed_acyclic_graph(relation):
                with pytest.raises(CycleError):
                    h.sweep(root)
                continue
            sweep = h.sweep(root)
            assert {q for q, _ in sweep} == useful
            place = {q: k for k, (q, _) in enumerate(sweep)}
            for q, into in sweep:
                assert set(into) == {r for r in arrows[q] if r in useful or r == root}
                assert all(r == root or place[q] < place[r] for r in into)
    assert orders > 80


def test_the_order_of_levels_and_reads_in_the_text_does_not_matter():
    rng = random.Random(1)
    for _ in range(100):
        program = random_program(rng)
        mixed = {p: dict(sorted(program[p].items(), reverse=True)) for p in reversed(program)}
        (h, wrong), (k, also) = infer(mentions(program)), infer(mentions(mixed))

        assert (h.order, h.below) == (k.order, k.below)
        assert sorted(d.code for d in wrong) == sorted(d.code for d in also)
