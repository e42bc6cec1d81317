"""The page as a text: well formed, complete, self-contained. `test_browser.py` opens it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from report_folders import Write, line

from bettyc.driver import check_file
from bettyc.graph import build, from_plan
from bettyc.pictures import draw
from bettyc.planner.build import make_plan
from bettyc.report.curves import Group
from bettyc.report.page import page
from bettyc.report.record import read_all

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.mlo"))
VOID = {"meta", "img", "input", "line", "path", "circle", "br"}


class Reader(HTMLParser):
    """Elements with their attributes; says when one is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]] = self.texts.get(self.open[-1], "") + data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def made(*paths: Path) -> str:
    records, found = read_all([str(p) for p in paths])
    return page("title <b>", [Group(r.label, (r,)) for r in records], found)


@pytest.fixture(scope="module")
def both(two_runs: Path) -> str:
    return made(two_runs / "a", two_runs / "b <i>")


def test_the_page_loads_nothing(both: str) -> None:
    reader = Reader(both)
    addresses = [e.get(key, "") for _, e in reader.elements for key in ("src", "href", "srcset")]

    assert {a[:5] if a[:1] == "d" else a[:1] for a in addresses if a} == {"#", "data:"}
    assert "url(" not in reader.texts["style"]
    assert "@import" not in reader.texts["style"]
    assert not re.search(r"fetch|XMLHttp|import\b|src=", reader.texts["script"])
    policy = next(m for m in reader.all("meta") if "http-equiv" in m)
    assert policy["content"].startswith("default-src 'none'")
    assert {e for e, _ in reader.elements} & {"link", "iframe", "object", "video"} == set()


def test_names_are_escaped(both: str) -> None:
    reader = Reader(both)

    assert reader.texts["title"] == "title <b>"
    assert {"b", "i"} & {tag for tag, a in reader.elements if not a} <= {"b"}  # of the schedule
    assert "b <i>" in reader.texts["label"]


def test_ids_are_unique_and_referred_to(both: str) -> None:
    reader = Reader(both)
    ids = [a["id"] for _, a in reader.elements if "id" in a]
    refers = [a[k] for _, a in reader.elements for k in ("aria-labelledby", "aria-describedby")
              if k in a]  # fmt: skip
    refers += [a["href"][1:] for a in reader.all("a")]

    assert len(ids) == len(set(ids))
    assert set(refers) <= set(ids)


def test_it_can_be_read_without_seeing_and_used_without_a_mouse(both: str) -> None:
    reader = Reader(both)
    plots = [a for a in reader.all("div") if a.get("class") == "plot"]
    drawings = [a for a in reader.all("svg") if a.get("aria-hidden") != "true"]

    assert reader.all("html")[0]["lang"] == "en"
    assert len(plots) == len(drawings) == len(reader.all("figure")) > 3
    assert all(p["tabindex"] == "0" and p["aria-label"] for p in plots)
    assert all(d["role"] == "img" and d["aria-label"] for d in drawings)
    assert all("step" in d["aria-label"] for d in drawings)
    assert all(i["alt"] for i in reader.all("img"))
    assert len(reader.all("details")) >= len(plots)
    wide = [a for a in reader.all("div") if a.get("class") == "wide"]
    assert len(wide) == len(reader.all("table")) == len(reader.all("caption"))
    assert all(a["tabindex"] == "0" for a in wide)
    order = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch("h[1-6]", tag)]
    assert order[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(order))


def test_the_script_gets_the_numbers_that_were_logged(both: str, two_runs: Path) -> None:
    text = re.search(r'id="data">(.*?)</script>', both, re.DOTALL)
    assert text is not None
    charts = json.loads(text[1])
    lines = (two_runs / "a" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(x)["loss"]["tune"] for x in lines]
    tune = next(c for c in charts.values() if c["curves"][0]["values"] == losses)

    assert tune["steps"] == [0, 1, 2, 3]
    assert [c["label"] for c in tune["curves"]] == ["a", "b <i>"]
    assert "<" not in text[1]


def rows(reader: Reader, text: str, caption: str) -> Sequence[str]:
    table = re.search(rf"<caption>{caption}</caption>(.*?)</table>", text, re.DOTALL)
    assert table is not None
    return re.findall(r"<tr.*?</tr>", table[1])


def test_settings_that_differ_are_marked(both: str) -> None:
    found = rows(Reader(both), both, "Params and settings, and where each value came from")
    marked = [row for row in found if "differs" in row and "<td>yes</td>" in row]

    assert len(marked) == 1
    assert "tune.optimizer" in marked[0]
    assert "lr = 0.5" in marked[0]
    assert "(--set)" in marked[0]


def test_the_end_of_a_run_is_told(both: str, write: Write) -> None:
    assert "finished" in rows(Reader(both), both, "Runs and their last numbers")[1]
    text = made(write("killed", line(0, 1.0), '{"step": 1'))

    assert "not finished" in text
    assert "ends in the middle of a line (MLO0806)" in text


def test_runs_without_anything_to_draw(write: Write) -> None:
    text = made(write("empty"), write("bare", line(0, None)))
    reader = Reader(text)

    assert "has no finished update (MLO0807)" in text
    assert len(reader.all("figure")) == 1
    assert "no finite number" in text


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.stem)
def test_the_graph_of_a_plan_is_that_of_the_program(example: Path) -> None:
    checked = check_file(str(example))
    plan, _ = make_plan(checked)
    assert plan is not None
    assert checked.model is not None
    assert checked.hierarchy is not None

    drawn = draw(build(checked.model, checked.hierarchy, checked.sources), "json")
    assert draw(from_plan(plan), "json") == drawn
    assert draw(from_plan(type(plan)(**vars(plan))), "svg").startswith("<svg")
