"""Data sets of Hugging Face's own library, made in memory."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from test_loading import PROGRAM, SAME, X, Y
from toys import parts, start

from bettyc.api import MloError
from bettyc.failures import InputError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
datasets = pytest.importorskip("datasets")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def made():
    return datasets.Dataset.from_dict({"x": X.tolist(), "y": Y.tolist(), "name": ["a"] * 12})


def doubled(rows):
    return {"x": [torch.tensor(x) * 2 for x in rows["x"]], "y": rows["y"]}


KINDS = {
    "plain": made,
    "torch format": lambda: made().with_format("torch"),
    "numpy format": lambda: made().with_format("numpy"),
    "columns selected": lambda: made().select_columns(["y", "x"]),
    "rows selected": lambda: made().select(range(12)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_rows(kind):
    expected = start(PROGRAM, {"all": SAME["dict of tensors"]})
    run = start(PROGRAM, {"all": KINDS[kind]()})
    expected.to_end()
    run.to_end()

    torch.testing.assert_close(run["fit"].w, expected["fit"].w)


def test_a_transform_is_applied_row_by_row():
    run = start(PROGRAM, {"all": made().with_transform(doubled)})
    run.step()
    batch = run.draws["fit.b"].columns

    torch.testing.assert_close(batch["fit.b", "x"], 2 * X[batch["fit.b", "index"]])


def test_images_are_decoded_when_asked_for():
    pictures = pytest.importorskip("PIL.Image")
    images = [pictures.fromarray(np.full((2, 2, 3), k, np.uint8)) for k in range(6)]
    features = datasets.Features({"x": datasets.Image(), "y": datasets.Value("float64")})
    found = datasets.Dataset.from_dict({"x": images, "y": list(range(6))}, features)
    text = (
        PROGRAM.replace("x: real[n, d]", "x: real[n, 2, 2, 3]")
        .replace("b.x @ w", "flatten(b.x) @ w")
        .replace("real[d]", "real[12]")
        .replace("dim n, d", "dim n")
    )

    def arrays(rows):
        return {"x": [np.asarray(i, np.float32) for i in rows["x"]], "y": rows["y"]}

    run = start(text, {"all": found.with_transform(arrays)})
    run.step()
    batch = run.draws["fit.b"].columns

    assert torch.equal(batch["fit.b", "x"][:, 0, 0, 0], batch["fit.b", "index"].float())


@pytest.mark.parametrize("shards", [1, 3])
def test_an_iterable_data_set(shards, tmp_path):
    text = PROGRAM.replace(", shuffle = true", "")

    def stream():
        return made().to_iterable_dataset(num_shards=shards).shuffle(seed=1, buffer_size=5)

    whole, first, second = (start(text, {"all": stream()}) for _ in range(3))
    whole.to_end()
    for _ in range(4):
        first.step()
    first.save(tmp_path / "c")
    second.load(tmp_path / "c")
    second.to_end()

    assert torch.equal(whole["fit"].w, second["fit"].w)
    assert float(whole["fit"].w.norm()) > 0


def test_several_splits_are_refused_by_name():
    both = datasets.DatasetDict({"train": made(), "test": made()})
    with pytest.raises((InputError, MloError), match="is not one data set") as raised:
        start(PROGRAM, {"all": both})

    assert "train, test" in raised.value.diagnostics[0].notes[0].text


def test_a_column_that_is_missing():
    with pytest.raises((InputError, MloError), match="no column `y`"):
        start(PROGRAM, {"all": made().remove_columns("y")})


def test_splits_of_a_transformed_data_set_are_stratified():
    labels = [0] * 8 + [1] * 4
    found = datasets.Dataset.from_dict({"x": X.tolist(), "y": labels}).with_transform(doubled)
    text = (
        PROGRAM.replace("y: real[n]", "y: int<2>[n]")
        .replace("level fit", "split all into a = 0.5, b = 0.5 with (stratify = y)\nlevel fit")
        .replace("from all(", "from a(")
    )
    run = start(text.replace("- b.y", "- real(b.y)"), {"all": found})

    assert int(parts(run, "a")["y"].sum()) == 2
