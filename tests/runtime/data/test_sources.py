"""Built-in sources: headers, values, and what is said when they do not fit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bettyc import sources
from bettyc.failures import InputError
from bettyc.model import Call, DataSet
from bettyc.runtime.data.check import Checker
from bettyc.runtime.data.readers import read
from bettyc.runtime.data.rows import checked
from bettyc.types import Record, Tensor, number, symbol

N, D = symbol("n"), symbol("d")
X = Tensor("real", (N, D))
XY = Record((("x", X), ("y", Tensor("int", (N,), number(3)))))


def columns(source: Call, declared, folder: Path) -> dict[str, torch.Tensor]:
    sizes: dict[str, int] = {}
    data = DataSet("all", declared, source, N, (), None)
    checker = Checker("all", sizes, torch.float64, None)
    return checked(read(data, str(folder)), declared, checker, None, torch.device("cpu"))


def problem(source: Call, declared, folder: Path):
    """The one diagnostic of a source that does not fit, from the header or from the values."""
    found, wrong = sources.sizes(source, declared, str(folder), None)
    if wrong:
        assert found is None
        (diagnostic,) = wrong
        return diagnostic
    with pytest.raises(InputError) as raised:
        columns(source, declared, folder)
    (diagnostic,) = raised.value.diagnostics
    return diagnostic


def save(folder: Path, **arrays) -> Call:
    np.savez(folder / "f.npz", **arrays)
    return Call("npz", ("f.npz",))


def test_npz_sizes_and_values(tmp_path):
    x, y = np.arange(12.0).reshape(4, 3), np.array([0, 2, 1, 1])
    source = save(tmp_path, x=x, y=y)
    type_, wrong = sources.sizes(source, XY, str(tmp_path), None)
    found = columns(source, XY, tmp_path)

    assert not wrong
    assert str(type_) == "{ x: real[4, 3], y: int<3>[4] }"
    assert found["x"].dtype == torch.float64
    assert np.array_equal(found["x"].numpy(), x)
    assert found["y"].tolist() == y.tolist()


def test_compressed_and_big_endian_arrays(tmp_path):
    x = np.arange(6, dtype=">f4").reshape(2, 3)
    np.savez_compressed(tmp_path / "f.npz", x=x)
    declared = Record((("x", X),))

    assert columns(Call("npz", ("f.npz",)), declared, tmp_path)["x"].tolist() == x.tolist()


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({"x": np.zeros((4, 3))}, "MLO0506", "no array `y`"),
        (
            {"x": np.zeros((4, 3)), "y": np.zeros(4)},
            "MLO0507",
            "`y` is float64, declared `int<3>[n]`",
        ),
        (
            {"x": np.zeros(4), "y": np.zeros(4, int)},
            "MLO0507",
            "`x` has shape 4, declared `real[n, d]`",
        ),
        ({"x": np.zeros((4, 3)), "y": np.array([0, 1, 3, 1])}, "MLO0507", "holds 3 in row 2"),
        ({"x": np.zeros((4, 3)), "y": np.array([0, 1, 2, -1])}, "MLO0507", "holds -1 in row 3"),
        (
            {"x": np.array([[0.0, 1], [2, np.nan]]), "y": np.array([0, 1])},
            "MLO0507",
            "nan in row 1, column 1",
        ),
        ({"x": np.array([[0.0], [np.inf]]), "y": np.array([0, 1])}, "MLO0507", "inf in row 1"),
        ({"x": np.array([["a"]]), "y": np.array([0])}, "MLO0507", "`x` is <U1"),
    ],
)
def test_npz_that_does_not_fit(arrays, code, words, tmp_path):
    found = problem(save(tmp_path, **arrays), XY, tmp_path)

    assert found.code == code
    assert words in found.message


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"PK\x03\x04" + b"\0" * 100])
@pytest.mark.parametrize("reader", ["npz", "npy", "csv"])
def test_garbage(content, reader, tmp_path):
    (tmp_path / "f").write_bytes(content)
    found = problem(Call(reader, ("f",)), XY, tmp_path)

    assert found.code in ("MLO0506", "MLO0507")


def test_pickled_objects_are_never_loaded(tmp_path):
    np.save(tmp_path / "f.npy", np.array([print], dtype=object), allow_pickle=True)

    assert problem(Call("npy", ("f.npy",)), X, tmp_path).code == "MLO0507"


def test_a_missing_file_names_its_neighbours(tmp_path):
    save(tmp_path, x=np.zeros(1))
    found = problem(Call("npz", ("g.npz",)), XY, tmp_path)

    assert found.code == "MLO0506"
    assert found.message == "file `g.npz` not found"
    assert any("f.npz" in note.text for note in found.notes)


CSV = "age, price ,rooms\n10,1.5,3\n20,2.5,4\n"


def test_csv_target_and_inputs(tmp_path):
    (tmp_path / "f.csv").write_text(CSV)
    declared = Record((("x", X), ("y", Tensor("real", (N,)))))
    source = Call("csv", ("f.csv",), (("target", "price"),))
    type_, _ = sources.sizes(source, declared, str(tmp_path), None)
    found = columns(source, declared, tmp_path)

    assert str(type_) == "{ x: real[2, 2], y: real[2] }"
    assert found["x"].tolist() == [[10, 3], [20, 4]]
    assert found["y"].tolist() == [1.5, 2.5]


def test_csv_columns_by_name(tmp_path):
    (tmp_path / "f.csv").write_text(CSV)
    declared = Record((("rooms", Tensor("int", (N,))), ("x", X)))
    found = columns(Call("csv", ("f.csv",)), declared, tmp_path)

    assert found["rooms"].tolist() == [3, 4]
    assert found["x"].tolist() == [[10, 1.5], [20, 2.5]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n3,red\n", "`b` holds 'red' in line 3"),
        ("a,b\n1,2\n3\n", "not a readable csv"),
        ("a,b\n", "not a readable csv"),
        ("a,c\n1,2\n", "has no column `b`"),
        ("a,b\n1,nan\n", "nan in row 0"),
    ],
)
def test_csv_that_does_not_fit(text, words, tmp_path):
    (tmp_path / "f.csv").write_text(text)
    declared = Record((("x", X), ("y", Tensor("real", (N,)))))
    found = problem(Call("csv", ("f.csv",), (("target", "b"),)), declared, tmp_path)

    assert words in found.message


@pytest.mark.parametrize("name", sources.BUNDLED)
def test_the_table_of_bundled_sets_is_true(name, tmp_path):
    """The static table against scikit-learn itself."""
    classes = sources.BUNDLED[name][2]
    y = Tensor("real", (N,)) if classes is None else Tensor("int", (N,), number(classes))
    declared = Record((("x", X), ("y", y)))
    source = Call("sklearn", (name,))
    type_, wrong = sources.sizes(source, declared, str(tmp_path), None)
    found = columns(source, declared, tmp_path)

    assert not wrong
    assert tuple(found["x"].shape) == tuple(d.value for d in type_.get("x").shape)
    assert len(found["y"]) == type_.get("y").shape[0].value
    if classes is not None:
        assert found["y"].unique().tolist() == list(range(classes))


def test_digits_as_images(tmp_path):
    image = Tensor("real", (N, number(1), number(8), number(8)))
    found = columns(Call("sklearn", ("digits",)), Record((("x", image),)), tmp_path)

    assert tuple(found["x"].shape) == (1797, 1, 8, 8)


def test_an_unknown_bundled_set(tmp_path):
    found = problem(Call("sklearn", ("diabete",)), XY, tmp_path)

    assert found.code == "MLO0506"
    assert "diabetes" in found.notes[0].text


def test_sizes_need_neither_torch_nor_numpy(tmp_path):
    save(tmp_path, x=np.zeros((2, 3)), y=np.array([0, 1]))
    code = (
        "import sys\n"
        "from bettyc import sources\n"
        "from bettyc.model import Call\n"
        "from bettyc.types import Record, Tensor, symbol\n"
        "declared = Record((('x', Tensor('real', (symbol('n'), symbol('d')))),))\n"
        "source = Call('npz', ('f.npz',))\n"
        f"type_, wrong = sources.sizes(source, declared, {str(tmp_path)!r}, None)\n"
        "assert str(type_) == '{ x: real[2, 3] }', type_\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
