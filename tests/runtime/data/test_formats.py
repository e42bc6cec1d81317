"""Parquet, safetensors and folders of images: sizes from the header, values as other libraries
write them, and what is said when they do not fit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_sources import XY, N, X, columns, problem
from toys import start

from bettyc import headers, sources
from bettyc.failures import InputError
from bettyc.model import Call, DataSet
from bettyc.runtime.data.images import image_folder
from bettyc.types import Record, Tensor, number, symbol

safetensors = pytest.importorskip("safetensors.torch")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
pictures = pytest.importorskip("PIL.Image")

Y = Tensor("real", (N,))
IMAGES = Record(
    (
        ("x", Tensor("real", (N, symbol("c"), symbol("h"), symbol("w")))),
        ("y", Tensor("int", (N,), number(2))),
    )
)


def write_parquet(folder: Path, **given) -> Call:
    parquet.write_table(arrow.table(given), folder / "f.parquet")
    return Call("parquet", ("f.parquet",), (("target", "price"),))


def test_parquet_takes_columns_as_csv_does(tmp_path):
    source = write_parquet(tmp_path, age=[10, 20], price=[1.5, 2.5], rooms=[3, 4])
    declared = Record((("x", X), ("y", Y), ("rooms", Tensor("int", (N,)))))
    type_, wrong = sources.sizes(source, declared, str(tmp_path), None)
    found = columns(source, declared, tmp_path)

    assert not wrong
    assert str(type_) == "{ x: real[2, 1], y: real[2], rooms: int[2] }"
    assert found["x"].tolist() == [[10], [20]]
    assert found["y"].tolist() == [1.5, 2.5]
    assert found["rooms"].tolist() == [3, 4]


@pytest.mark.parametrize("fixed", [True, False])
def test_parquet_lists_are_rows_of_a_matrix(fixed, tmp_path):
    x = np.arange(12.0).reshape(4, 3)
    kind = arrow.list_(arrow.float64(), 3) if fixed else arrow.list_(arrow.float64())
    source = write_parquet(tmp_path, x=arrow.array(x.tolist(), kind), price=[0.0, 1, 2, 3])
    found = columns(source, Record((("x", X), ("y", Y))), tmp_path)

    assert found["x"].tolist() == x.tolist()


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({"a": [1.0, None], "price": [0.0, 1.0]}, "MLO0507", "`a` holds nothing in row 1"),
        ({"a": ["u", "v"], "price": [0.0, 1.0]}, "MLO0507", "`a` is string"),
        ({"a": [1.0, 2.0]}, "MLO0506", "no column `price`"),
        ({"a": [[1.0], [1.0, 2.0]], "price": [0.0, 1.0]}, "MLO0507", "lists of 1 to 2 entries"),
        ({"a": [1.0, float("inf")], "price": [0.0, 1.0]}, "MLO0507", "inf in row 1"),
        ({"a": [], "price": []}, "MLO0506", "not a readable parquet file"),
    ],
)
def test_parquet_that_does_not_fit(given, code, words, tmp_path):
    found = problem(write_parquet(tmp_path, **given), Record((("x", X), ("y", Y))), tmp_path)

    assert found.code == code
    assert words in found.message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_safetensors_sizes_and_values(dtype, tmp_path):
    x, y = torch.arange(12.0).reshape(4, 3).to(dtype), torch.tensor([0, 2, 1, 1])
    safetensors.save_file({"x": x, "y": y, "other": torch.zeros(7)}, tmp_path / "f.safetensors")
    source = Call("safetensors", ("f.safetensors",))
    type_, wrong = sources.sizes(source, XY, str(tmp_path), None)
    found = columns(source, XY, tmp_path)

    assert not wrong
    assert str(type_) == "{ x: real[4, 3], y: int<3>[4] }"
    assert torch.equal(found["x"], x.double())
    assert torch.equal(found["y"], y)


def test_nested_safetensors(tmp_path):
    safetensors.save_file({"a.x": torch.ones(4, 3), "y": torch.ones(4)}, tmp_path / "f")
    declared = Record((("a", Record((("x", X),))), ("y", Y)))
    type_, _ = sources.sizes(Call("safetensors", ("f",)), declared, str(tmp_path), None)

    assert str(type_) == "{ a: { x: real[4, 3] }, y: real[4] }"


@pytest.mark.parametrize("reader", ["parquet", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 100, b"\x08" + b"\0" * 7 + b"{}      "])
def test_garbage(reader, content, tmp_path):
    (tmp_path / "f").write_bytes(content)

    assert problem(Call(reader, ("f",)), XY, tmp_path).code == "MLO0506"


def test_safetensors_headers_need_neither_torch_nor_numpy(tmp_path):
    safetensors.save_file({"x": torch.ones(4, 3)}, tmp_path / "f")
    code = (
        "import sys\n"
        "from bettyc import sources\n"
        "from bettyc.model import Call\n"
        "from bettyc.types import Record, Tensor, symbol\n"
        "declared = Record((('x', Tensor('real', (symbol('n'), symbol('d')))),))\n"
        "source = Call('safetensors', ('f',))\n"
        f"type_, wrong = sources.sizes(source, declared, {str(tmp_path)!r}, None)\n"
        "assert str(type_) == '{ x: real[4, 3] }', (type_, wrong)\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def draw_images(folder: Path, sizes=((6, 4), (6, 4), (6, 4))) -> Call:
    """Two classes, `a` with all images but the last; every image has one colour."""
    for k, size in enumerate(sizes):
        where = folder / "pets" / ("b" if k == len(sizes) - 1 else "a")
        where.mkdir(parents=True, exist_ok=True)
        pictures.new("RGB", size, (k * 51, 255, 0)).save(where / f"{k}.png")
    return Call("images", ("pets",))


def pets(source: Call, folder: Path):
    return image_folder(DataSet("pets", IMAGES, source, N, (), None), str(folder))


def test_images_by_class(tmp_path):
    source = draw_images(tmp_path)
    (tmp_path / "pets" / "notes.txt").write_text("no image")
    type_, wrong = sources.sizes(source, IMAGES, str(tmp_path), None)
    found = pets(source, tmp_path)

    assert not wrong
    assert str(type_) == "{ x: real[3, 3, 4, 6], y: int<2>[3] }"
    assert [found[k]["y"] for k in range(3)] == [0, 0, 1]
    expected = torch.tensor([0.4, 1.0, 0.0])[:, None, None].expand(3, 4, 6)
    torch.testing.assert_close(found[2]["x"], expected)


def test_images_are_brought_to_a_size_and_to_grey(tmp_path):
    source = draw_images(tmp_path, ((6, 4), (8, 8)))
    small = Call("images", ("pets",), (("size", 5), ("channels", 1)))
    found = problem(source, IMAGES, tmp_path)

    assert "images of several sizes: 0.png is 6 x 4, 1.png is 8 x 8" in found.message
    assert "size = 32" in found.suggestions[0].message
    assert pets(small, tmp_path)[1]["x"].shape == (1, 5, 5)


@pytest.mark.parametrize(
    ("options", "code"),
    [({"channels": 2}, "MLO0603"), ({"size": 0}, "MLO0603"), ({"size": (1, 2, 3)}, "MLO0603")],
)
def test_options_that_make_no_sense(options, code, tmp_path):
    draw_images(tmp_path)
    source = Call("images", ("pets",), tuple(options.items()))

    assert problem(source, IMAGES, tmp_path).code == code


def test_folders_without_what_is_declared(tmp_path):
    draw_images(tmp_path)
    one = Record((("y", Tensor("int", (N,), number(1))),))
    (tmp_path / "empty").mkdir()

    assert "has 2 classes" in problem(Call("images", ("pets",)), one, tmp_path).message
    assert "no column `y`" in problem(Call("images", ("pets/a",)), one, tmp_path).message
    assert "holds no images" in problem(Call("images", ("empty",)), one, tmp_path).message
    assert "not found" in problem(Call("images", ("nowhere",)), one, tmp_path).message


PETS = """
mlo 0.1
dim n
data pets : { x: real[n, 3, 4, 6], y: int<2>[n] } from images("PATH")
split pets into train = 0.5, val = 0.5 with (seed = 0, stratify = y)
level fit {
  var w : real[72, 2] = zeros
  draw b from train(batch = 4, weights = balanced)
  minimize mean(xent(flatten(b.x) @ w, b.y))
  optimizer = sgd(lr = 0.1)
}
metric seen = mean(real(val.y))
run { steps = 3  eval = every(3) }
"""


def test_a_program_trains_on_images(tmp_path):
    draw_images(tmp_path, ((6, 4),) * 12)
    pictures.new("RGB", (6, 4)).save(tmp_path / "pets" / "b" / "x.png")
    run = start(PETS.replace("PATH", str(tmp_path / "pets")))
    last = run.to_end()

    # 11 of one class and 2 of the other: one of the two is in each part
    assert last.metrics["seen"] == pytest.approx(1 / run.sources["val"].count)
    assert float(run["fit"].w.abs().sum()) > 0


def test_an_image_that_cannot_be_read(tmp_path):
    draw_images(tmp_path, ((6, 4),) * 12)
    text = PETS.replace("PATH", str(tmp_path / "pets"))
    run = start(text)
    for file in (tmp_path / "pets" / "a").iterdir():
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError, match="is not a readable image"):
        run.to_end()


def test_a_library_that_is_not_installed(tmp_path, monkeypatch):
    source = write_parquet(tmp_path, x=[1.0], price=[1.0])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match="needs pyarrow to be read") as raised:
        headers.parquet_table(source, str(tmp_path), None)

    assert "bettyc[data]" in raised.value.diagnostics[0].notes[0].text
