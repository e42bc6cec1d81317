"""Edits that change no meaning give the same plan, up to the names that they changed."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from reading import EXAMPLES, GOOD, NINE, PROGRAMS, read

from bettyc.driver import Checked, check
from bettyc.grammar import ast
from bettyc.grammar.parse import parse, tokens
from bettyc.options import Options
from bettyc.planner import make_plan

# What depends on how a text is written, not on what it means, by the class it is in.
TEXTUAL = {
    "": {"span", "objective_span"},
    "Plan": {"source", "hash", "nodes", "folder"},
    "Edge": {"file", "line", "column", "text"},
    "Candidate": {"line", "column"},
    "Setting": {"origin"},
}


def planned(found: Checked, back: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The plan as data, without places; a node of the graph stands where it is used. back: names
    to change.
    """
    assert [d.code for d in found.diagnostics if d.severity == "error"] == []
    plan, wrong = make_plan(found)
    assert plan is not None, wrong
    text = plan.to_json()
    for word, name in (back or {}).items():
        text = re.sub(rf"\b{word}\b", name, text)
    raw = json.loads(text)
    return stripped(raw, Graph(raw["nodes"]))


class Graph:
    """The nodes of a plan by what they compute, for the order of the text numbers them: a digest,
    because written out a network and its weights are hundreds of megabytes.
    """

    def __init__(self, nodes: list[dict[str, Any]]) -> None:
        self.nodes = nodes
        self.made: dict[int, str] = {}

    def written(self, index: int) -> str:
        if index not in self.made:
            node = self.nodes[index]
            inside = [self.written(a) for a in node["args"]]
            whole = json.dumps([node["op"], inside, node["attrs"], node["type"]], sort_keys=True)
            self.made[index] = f"{node['op']} {hashlib.sha256(whole.encode()).hexdigest()}"
        return self.made[index]


def stripped(value: Any, graph: Graph, key: str = "") -> Any:
    if key in ("objective", "node") and isinstance(value, int):
        return graph.written(value)
    if isinstance(value, dict):
        left_out = TEXTUAL[""] | TEXTUAL.get(value.get("is", ""), set())
        kept = {k: v for k, v in value.items() if k not in left_out}
        return {k: stripped(v, graph, k) for k, v in sorted(kept.items())}
    if isinstance(value, list):
        made = [stripped(v, graph) for v in value]
        if key in ("data", "draws", "externs", "dims", "splits", "params", "reads", "variables",
                   "networks", "metrics"):  # fmt: skip
            made.sort(key=json.dumps)
        return made
    return value


def plan_of(text: str, back: Mapping[str, str] | None = None, **options: Any) -> dict[str, Any]:
    return planned(read(text, **options), back)


LEVELLED = {name: text for name, text in GOOD.items() if "level " in text}


@pytest.mark.parametrize("name", LEVELLED)
def test_the_order_of_blocks_does_not_matter(name):
    text = LEVELLED[name]
    file = parse(text, "p.mlo").file
    blocks = [text[i.span.start : i.span.end] for i in file.items]

    assert plan_of("\n".join(reversed(blocks))) == plan_of(text)


@pytest.mark.parametrize("name", LEVELLED)
def test_the_order_of_settings_does_not_matter(name):
    text = LEVELLED[name]
    file = parse(text, "p.mlo").file
    for item in reversed(file.items):
        if isinstance(item, ast.Level):
            inside = [s for s in item.body if isinstance(s, ast.Setting)]
            others = [s for s in item.body if not isinstance(s, ast.Setting)]
            body = "\n".join(text[s.span.start : s.span.end] for s in (*inside[::-1], *others))
            first, last = item.body[0].span.start, item.body[-1].span.end
            text = text[:first] + body + text[last:]

    assert plan_of(text) == plan_of(LEVELLED[name])


@pytest.mark.parametrize("name", LEVELLED)
def test_comments_spaces_and_semicolons_do_not_matter(name):
    text = LEVELLED[name]
    parts, end = [], 0
    for k, token in enumerate(tokens(text)):
        inside = text[end : token.start]
        spaced = inside + (" # remark\n" if k % 5 == 0 and inside.strip() == "" and inside else "")
        parts += [spaced, text[token.start : token.end]]
        end = token.end
    noisy = "".join(parts) + "\n# the end\n"

    assert noisy != text
    assert plan_of(noisy) == plan_of(text)


def renamed(text: str, names: dict[str, str]) -> str:
    """The text with identifiers renamed, by their tokens."""
    for token in reversed(tokens(text)):
        word = text[token.start : token.end]
        if word in names:
            text = text[: token.start] + names[word] + text[token.end :]
    return text


@pytest.mark.parametrize("name", LEVELLED)
def test_renaming_levels_variables_and_dims_renames_the_plan(name):
    """New names sort as the old ones do, for names decide where the graph leaves the order free."""
    text = LEVELLED[name]
    file = parse(text, "p.mlo").file
    words = {token.text for token in tokens(text)}
    levels = [i for i in file.items if isinstance(i, ast.Level)]
    owned = {s.name.text for lv in levels for s in lv.body
             if isinstance(s, ast.Var | ast.Module | ast.Let | ast.Draw)}  # fmt: skip
    taken = {"net", "x", "y", "w", "index", "loss", "steps", "log_prob", "samples", "baseline",
             "momentum"}  # fmt: skip
    old = sorted(({lv.name.text for lv in levels} | owned) - taken)
    names = {word: f"{word}0" for word in old}  # 0 sorts before all that may follow
    assert not set(names.values()) & words
    changed = renamed(text, names)

    assert plan_of(changed) != plan_of(text)
    assert plan_of(changed, {f"{word}0": word for word in names}) == plan_of(text)


def test_a_def_is_the_same_as_its_body_written_out():
    text = NINE["a_logreg_hpo"]
    inlined = text.replace("nll(w, train)", "mean(bce(train.x @ w, train.y))")
    inlined = inlined.replace("nll(fit*.w, val)", "mean(bce(val.x @ fit*.w, val.y))")
    inlined = re.sub(r"def nll.*\n", "", inlined)

    assert "nll" not in inlined
    assert plan_of(inlined) == plan_of(text)


def test_a_let_is_the_same_as_its_value_written_out():
    text = NINE["h_actor_critic"]
    inlined = text.replace("- target)", "- (b.r + gamma * (1 - b.done) "
                           "* q_of(ema(q, decay = 0.995), b.s2, actor.pi(b.s2))))")  # fmt: skip
    inlined = re.sub(r"  let .*\n", "", inlined)

    assert "let" not in inlined
    assert plan_of(inlined) == plan_of(text)


def test_an_import_is_the_same_as_the_text_pasted():
    text = GOOD["imported"]
    pasted = text.replace('import "losses.mlo" as losses\n', "")
    pasted = pasted.replace("mlo 0.1\n", GOOD["losses"], 1).replace("losses.", "")

    imported, written = plan_of(text), plan_of(pasted)

    # a param of the file itself can be set from outside, one of an imported file cannot
    assert imported["model"].pop("params") == []
    assert [p["path"] for p in written["model"].pop("params")] == ["delta"]
    assert imported == written


SETS = [
    ("conditions", ("fit.optimizer.tol", "1e-3"), "tol = 1e-6", "tol = 1e-3"),
    ("conditions", ("cap", "1.5"), "cap    : real in positive = 3.0",
     "cap : real in positive = 1.5"),
    ("conditions", ("robust", "true"), "= false", "= true"),
    ("conditions", ("run.steps", "7"), "steps = 50", "steps = 7"),
    ("conditions", ("tune.optimizer", "sgd(lr = 0.5)"), "adam(lr = 0.05)", "sgd(lr = 0.5)"),
    ("conditions", ("tune.optimizer.betas", "[0.5, 0.9]"), "adam(lr = 0.05)",
     "adam(lr = 0.05, betas = [0.5, 0.9])"),
    ("conditions", ("fit.clip", "2.0"), "optimizer = lbfgs(tol = 1e-6)",
     "optimizer = lbfgs(tol = 1e-6)\n  clip = 2.0"),
    ("imported", ("d", "5"), "d = 3", "d = 5"),
    ("minmax", ("run.steps", "4"), "# A zero", "run { steps = 4 }\n# A zero"),
    ("networks", ("learn.steps", "2"), "steps     = 4", "steps = 2"),
    ("externs", ("student.hypergrad", "neumann(terms = 3, lr = 0.1)"),
     "cg(iters = 5, damping = 0.1)", "neumann(terms = 3, lr = 0.1)"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pair", "old", "new"), SETS)
def test_set_is_the_same_as_editing_the_file(name, pair, old, new):
    text = GOOD[name]
    assert text.count(old) >= 1
    found = read(text, set=(pair,))

    assert planned(found) == plan_of(text.replace(old, new, 1))
    assert planned(read(found.resolved)) == planned(found)
    assert plan_of(text) != planned(found)


def test_a_profile_is_the_same_as_its_sets():
    text = GOOD["conditions"]
    pairs = (("robust", "true"), ("cap", "1.5"), ("tune.optimizer.lr", "0.01"))

    assert plan_of(text, profile="hard") == plan_of(text, set=pairs)
    config = "robust = true\ncap = 1.5\n[tune.optimizer]\nlr = 0.01\n"
    assert plan_of(text, config=("c.toml", config)) == plan_of(text, set=pairs)


def test_later_values_win_over_earlier_ones():
    """defaults < file < profile < --config < --set"""
    text = GOOD["conditions"]

    def steps(**options: Any) -> Any:
        return read(text, **options).model.setting("steps")

    toml = ("c.toml", "run.steps = 3")
    assert steps() == 50
    assert steps(profile="smoke") == 2
    assert steps(profile="smoke", config=toml) == 3
    assert steps(profile="smoke", config=toml, set=(("run.steps", "4"),)) == 4
    assert steps(set=(("run.steps", "4"), ("run.steps", "5"))) == 5


PRINT_PLANS = """
import sys
from pathlib import Path
from bettyc.driver import check
from bettyc.planner import make_plan
for path in sys.argv[1:]:
    text = Path(path).read_text(encoding="utf-8")
    found = check(text, Path(path).name, folder=str(Path(path).parent))
    plan, _ = make_plan(found)
    sys.stdout.write(plan.to_json() if plan else repr([d.message for d in found.diagnostics]))
    for d in found.diagnostics:
        sys.stdout.write(d.code + d.message + repr(d.suggestions) + repr(d.notes))
"""


def test_plans_and_diagnostics_do_not_depend_on_the_hash_seed():
    """Byte for byte, of all programs, good and bad."""
    folders = (PROGRAMS / "nine", PROGRAMS / "good", PROGRAMS / "bad", EXAMPLES)
    files = [str(p) for folder in folders for p in sorted(folder.glob("*.mlo"))]
    outputs = set()
    for seed in "01234":
        run = subprocess.run(
            [sys.executable, "-c", PRINT_PLANS, *files],
            capture_output=True, check=True, env={"PYTHONHASHSEED": seed},
        )  # fmt: skip
        outputs.add(run.stdout)
    assert len(outputs) == 1
    assert len(outputs.pop()) > 100_000


def test_dims_bound_from_outside_are_as_written():
    text = GOOD["conditions"]
    written = text.replace("dim n, d", "dim n = 40, d = 3")

    mocked = check(text, "p.mlo", Options(mock=(("n", 40), ("d", 3))))

    assert planned(mocked) == plan_of(written)
