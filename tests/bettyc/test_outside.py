"""What comes from outside the file: values, data, imported files, Python objects."""

from __future__ import annotations

import pytest
from reading import GOOD, codes, read

from bettyc.driver import check, check_file
from bettyc.link import examine, link, mock_sizes
from bettyc.options import Options
from bettyc.sources import counts

LINE = """
dim n, d
data train : {{ x: real[n, d], y: {kind} }} from csv("train.csv", target = "y")
level fit {{
  var w : real[d] = zeros
  minimize mean((train.x @ w - {y})^2)
}}
"""


def examined(text: str, folder, **options) -> list[tuple[str, str]]:
    checked = check(text, "p.mlo", Options(**options), folder=str(folder))
    return [(d.code, d.message) for d in examine(checked).shown()]


def line(folder, csv: str, kind: str = "real[n]", y: str = "train.y") -> list[str]:
    (folder / "train.csv").write_text(csv, encoding="utf-8")
    found = examined(LINE.format(kind=kind, y=y), folder, data=(("train", "train.csv"),))
    return [code for code, _ in found]


@pytest.mark.parametrize(
    ("path", "value"),
    [("nowhere", "1"), ("fit.nothing", "1"), ("fit.optimizer.lr", "("), ("run.step", "1"),
     ("other.steps", "3"), ("test_mse", "1")],
)  # fmt: skip
def test_a_set_that_leads_nowhere(path, value):
    assert codes(GOOD["conditions"], set=((path, value),)) == ["MLO0614"]


def test_a_set_that_is_wrong_in_itself_is_reported_as_if_written():
    assert codes(GOOD["conditions"], set=(("run.steps", "0"),)) == ["MLO0603"]
    assert codes(GOOD["conditions"], set=(("tune.optimizer", "adma"),)) == ["MLO0602"]
    assert codes(GOOD["conditions"], profile="smok") == ["MLO0614"]
    assert codes(GOOD["conditions"], config=("c.toml", "= 3")) == ["MLO0614"]
    assert codes(GOOD["conditions"], data=(("al", "x.npz"),)) == ["MLO0202"]


def test_origins_say_where_each_value_came_from():
    found = read(GOOD["conditions"], profile="smoke", set=(("cap", "2.0"), ("fit.clip", "1.0")))
    origins = {s.path: s.origin for lv in found.model.levels for s in lv.settings}
    origins |= {s.path: s.origin for s in (*found.model.run, *found.model.params)}

    assert origins["run.steps"] == "profile smoke"
    assert origins["fit.optimizer"] == "profile smoke"
    assert (origins["cap"], origins["fit.clip"]) == ("--set", "--set")
    assert (origins["robust"], origins["run.eval"], origins["run.seed"]) == (
        "file", "file", "default",
    )  # fmt: skip


def test_data_bind_dims(tmp_path):
    (tmp_path / "train.csv").write_text("a,b,y\n1,2,3\n4,5,6\n", encoding="utf-8")
    checked = check(LINE.format(kind="real[n]", y="train.y"), "p.mlo", folder=str(tmp_path))

    linked = link(checked)

    assert not linked.errors
    assert dict(linked.model.dims) == {"n": 2, "d": 2}


@pytest.mark.parametrize(
    ("csv", "kind", "code"),
    [
        ("a,y\n1,2\n3,4\n", "real[n]", []),
        ("a,y\n1,0\n3,1\n", "int<2>[n]", []),
        ("a,y\n1,0\n3,2\n", "int<2>[n]", ["MLO0507"]),
        ("a,y\n1,-1\n3,1\n", "int<2>[n]", ["MLO0507"]),
        ("a,y\n1,nan\n3,1\n", "real[n]", ["MLO0507"]),
        ("a,y\n1,word\n3,1\n", "real[n]", ["MLO0507"]),
        ("a,z\n1,0\n3,1\n", "real[n]", ["MLO0506"]),
        ("", "real[n]", ["MLO0506"]),
    ],
)
def test_values_are_checked_where_data_is_given(tmp_path, csv, kind, code):
    y = "train.y" if kind == "real[n]" else "real(train.y)"

    assert line(tmp_path, csv, kind, y) == code


def test_a_plain_check_opens_no_file(tmp_path):
    checked = check(LINE.format(kind="real[n]", y="train.y"), "p.mlo", folder=str(tmp_path))

    assert checked.shown() == []


TWO = """
dim n, m, d
data a : {{ x: real[n, d], y: real[n] }} from csv("a.csv", target = "y")
data b : {{ x: real[m, d], y: real[m] }} from csv("b.csv", target = "y")
level fit {{
  var w : real[d] = zeros
  minimize mean((a.x @ w - a.y)^2)
}}
metric test = mean(({used}.x @ fit.w - {used}.y)^2)
"""


@pytest.mark.parametrize(
    ("used", "rows", "expected"),
    [
        ("b", "2,3\n-0.0,1\n9,9\n", 2),
        ("b", "9,9\n2,4\n", 0),
        ("a", "2,3\n", 0),  # nothing is judged by `b`
    ],
)
def test_rows_in_common_are_counted(tmp_path, used, rows, expected):
    (tmp_path / "a.csv").write_text("u,y\n2,3\n0.0,1\n5,5\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text(f"u,y\n{rows}", encoding="utf-8")
    data = (("a", "a.csv"), ("b", "b.csv"))

    found = examined(TWO.format(used=used), tmp_path, data=data)

    message = f"`a` and `b` have {expected} rows in common"
    assert found == ([("MLO0503", message)] if expected else [])


def test_mock_sizes_differ_and_hold_the_batch():
    model = read(GOOD["externs"]).model

    sizes = mock_sizes(model, {"m": 200})

    assert sizes["m"] == 200
    assert sizes["n"] >= 3 * 32
    assert (
        mock_sizes(read(GOOD["imported"]).model, {})["n"]
        != mock_sizes(read(GOOD["imported"]).model, {})["m"]
    )


@pytest.mark.parametrize(
    ("rows", "fractions"),
    [(10, [0.5, 0.5]), (7, [0.5, 0.25, 0.25]), (3, [0.1, 0.2, 0.3]), (0, [1])],
)
def test_parts_of_a_split_never_overlap_and_never_exceed_the_rows(rows, fractions):
    parts = counts(rows, fractions)

    assert sum(parts) <= rows
    assert sum(parts) == rows or sum(fractions) < 1
    assert all(abs(p - rows * f) <= 1 for p, f in zip(parts, fractions, strict=True))


def test_a_file_that_is_not_text(tmp_path):
    (tmp_path / "p.mlo").write_bytes(b"level l {\n\xff\xfe }")

    found = check_file(str(tmp_path / "p.mlo"), Options())

    assert [d.code for d in found.diagnostics] == ["MLO0101"]
    assert found.model is None


def test_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError):
        check_file("/no/such/file.mlo", Options())


def test_a_byte_order_mark_is_no_part_of_the_program(tmp_path):
    text = GOOD["order_free"]
    (tmp_path / "p.mlo").write_bytes(b"\xef\xbb\xbf" + text.encode())

    assert check_file(str(tmp_path / "p.mlo"), Options()).shown() == []


MODELS = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width: int, bias: bool = True):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(width)
        self.linear = torch.nn.Linear(width, 1, bias=bias)
    def forward(self, x):
        return self.linear(self.norm(x))

shared = Net(3)

def loss(a, b):
    return ((a - b) ** 2).mean()

def half(a, b):
    return ((a - b.detach()) ** 2).mean()

def broken(a, b):
    raise ValueError("no")

def several(a, b):
    return a, b

def source(part, size):
    raise RuntimeError("a check does not load data")
"""
EXTERN = """
dim n, m
extern module net({formals}) : real[B, 3] -> real[B, 1] from "models:{module}"
extern fn loss(a: real[k], b: real[k]) -> real {nondiff} from "models:{fn}"
extern source rows({parameters}) : {{ x: real[n, 3], y: real[n] }} from "models:source"
data train from rows({arguments})
level fit {{
  module f = net({built})
  minimize loss(f(train.x)[:, 0], {second})
  optimizer = sgd(lr = 0.1)
}}
"""


def python(folder, **parts) -> list[tuple[str, str]]:
    (folder / "models.py").write_text(MODELS, encoding="utf-8")
    given = {
        "formals": "width: int", "built": "width = 3", "module": "Net", "fn": "loss",
        "nondiff": "", "second": "train.y", "parameters": "part: str, size: int",
        "arguments": '"train", size = 4', **parts,
    }  # fmt: skip
    return examined(EXTERN.format(**given), folder, imports=True)


@pytest.mark.parametrize(
    ("parts", "code", "words"),
    [
        ({}, None, ""),
        ({"module": "shared", "formals": "", "built": ""}, None, ""),
        ({"formals": "wide: int", "built": "wide = 3"}, "MLO0704", "no parameter `wide`"),
        ({"formals": "", "built": ""}, "MLO0704", "`width`"),
        ({"module": "nothing"}, "MLO0702", "no attribute `nothing`"),
        ({"module": "loss", "formals": "a: int, b: int", "built": "a = 3, b = 4"}, "MLO0701", ""),
        ({"built": "width = 4"}, "MLO0707", "without data"),
        ({"fn": "broken"}, "MLO0707", "without data"),
        ({"fn": "several"}, "MLO0705", "returns a tuple"),
        ({"fn": "shared"}, "MLO0707", ""),
        ({"fn": "half"}, None, ""),  # data need no gradient
        ({"fn": "half", "second": "f(train.x)[:, 0]"}, "MLO0708", "argument `b`"),
        ({"fn": "half", "second": "f(train.x)[:, 0]", "nondiff": "nondiff(b)"}, None, ""),
        ({"parameters": "part: str", "arguments": '"train"'}, "MLO0704", "`size`"),
    ],
)
def test_python_objects_are_tried_against_their_declarations(tmp_path, parts, code, words):
    found = python(tmp_path, **parts)

    assert [c for c, _ in found] == ([code] if code else []), found
    assert words in "".join(message for _, message in found)


def test_trying_a_network_leaves_it_as_it_was(tmp_path):
    import importlib
    import sys

    assert python(tmp_path, module="shared", formals="", built="") == []
    sys.path.insert(0, str(tmp_path))
    try:
        shared = importlib.import_module("models").shared
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["models"]
    assert float(shared.norm.running_mean.abs().sum()) == 0
    assert int(shared.norm.num_batches_tracked) == 0
    assert shared.training
    assert all(p.grad is None for p in shared.parameters())
