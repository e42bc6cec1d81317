"""The pictures of darts.mlo, CIFAR-10 from files in the published format; the cells of darts.py."""

from __future__ import annotations

import importlib.util
import math
import pickle
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import bettyc

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pictures, darts = load("pictures"), load("darts")
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(EXAMPLES))  # search_cells.py imports those beside it
    search_cells = load("search_cells")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures per batch. Picture k of batch j is red = 10 j + k, green = 100, blue = 255."""
    inside = tmp_path / "cifar-10-batches-py"
    inside.mkdir()
    for j, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        data = np.empty((2, 3, 1024), dtype=np.uint8)
        data[:, 0] = np.array([[10 * j], [10 * j + 1]])
        data[:, 1], data[:, 2] = 100, 255
        batch = {b"data": data.reshape(2, 3072), b"labels": [j, 9 - j], b"batch_label": b"made up"}
        (inside / name).write_bytes(pickle.dumps(batch, protocol=2))
    return tmp_path


def test_cifar10_is_read_and_normalised(folder: Path) -> None:
    train, test = (pictures.pictures(str(folder), part) for part in ("train", "test"))

    assert train["x"].shape == (10, 3, 32, 32)
    assert test["x"].shape == (2, 3, 32, 32)
    assert train["y"].tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    red = (np.array([50, 51]) / 255 - 0.4914) / 0.2470
    assert test["x"][:, 0, 5, 7] == pytest.approx(red, rel=1e-5)
    assert np.allclose(train["x"][:, 2], (1 - 0.4465) / 0.2616, rtol=1e-5)


def test_the_archive_gives_what_the_folder_gives(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "packed"
    other.mkdir()
    with tarfile.open(other / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(folder / "cifar-10-batches-py", "cifar-10-batches-py")

    for part in ("train", "test"):
        plain, packed = (pictures.pictures(str(f), part) for f in (folder, other))
        assert np.array_equal(plain["x"], packed["x"])
        assert np.array_equal(plain["y"], packed["y"])


def test_a_pickle_that_holds_more_than_arrays_is_refused(folder: Path) -> None:
    (folder / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(pickle.UnpicklingError, match="does not belong"):
        pictures.pictures(str(folder), "test")


def test_the_full_profile_of_the_search_runs_on_the_published_files(folder: Path) -> None:
    """With fewer and narrower cells, for time."""
    values = {"name": f'"{folder}"', "batch": 2, "run.steps": 1, "run.eval": "every(1)"}
    values |= {"cells": 2, "channels": 2}
    program = bettyc.load(EXAMPLES / "darts.mlo", profile="cifar10", set=values)
    run = program.compile().start()

    out = run.step()

    assert run["arch"].normal.shape == (14, 8)
    assert math.isfinite(out.loss["arch"])
    assert 0 <= out.metrics["val_acc"] <= 1


def test_the_full_profile_trains_the_published_cells_in_their_published_size(folder: Path) -> None:
    """3.3 million parameters: table 1 of the paper."""
    values = {"name": f'"{folder}"', "B": 2, "run.steps": 1, "run.eval": "every(1)"}
    program = bettyc.load(EXAMPLES / "darts_retrain.mlo", profile="cifar10", set=values)
    run = program.compile().start()

    out = run.step()

    count = sum(p.numel() for p in run["weights"].net.parameters())
    assert round(count / 1e6, 1) == 3.3
    assert math.isfinite(out.metrics["test_loss"])


def test_moved_digits_are_whole_and_anywhere_with_the_copies_side_by_side() -> None:
    plain, moved = (pictures.pictures(name, "test") for name in ("digits", "moved"))
    places = set()
    for picture, digit in zip(moved["x"][:400], np.repeat(plain["x"], 4, axis=0), strict=False):
        windows = np.lib.stride_tricks.sliding_window_view(picture[0], (8, 8))
        found = np.argwhere((windows == digit[0]).all((2, 3)))
        assert picture.sum() == pytest.approx(digit.sum())  # nothing else is in the picture
        assert len(found) >= 1
        places.add(tuple(found[0].tolist()))

    assert moved["x"].shape[1:] == (1, 12, 12)
    assert moved["x"].dtype == np.float32
    assert np.array_equal(moved["y"], np.repeat(plain["y"], 4))
    assert places >= {(r, c) for r in range(5) for c in range(5)}


def test_fit_and_val_are_the_halves_of_train() -> None:
    train, fit, val = (pictures.pictures("moved", part) for part in ("train", "fit", "val"))

    assert abs(len(fit["y"]) - len(val["y"])) <= 1
    for key in ("x", "y"):
        assert np.array_equal(np.concatenate([fit[key], val[key]]), train[key])


def test_augmentation_shifts_flips_and_blanks_while_training() -> None:
    torch.manual_seed(0)
    picture = torch.arange(1.0, 1 + 2 * 36).reshape(1, 2, 6, 6)
    padded = torch.nn.functional.pad(picture, [1] * 4)[0]
    moved = [padded[:, a : a + 6, b : b + 6] for a in range(3) for b in range(3)]
    expected = {tuple(m.flatten().tolist()) for p in moved for m in (p, p.flip(-1))}
    x = picture.expand(400, 2, 6, 6)
    moves, blanks = darts.Augment(1), darts.Augment(0, 4)

    assert {tuple(m.flatten().tolist()) for m in moves(x)} == expected
    blank = (blanks(x) == 0).sum((1, 2, 3))
    assert blank.max() == 2 * 16
    assert blank.min() == 2 * 4
    assert torch.equal(moves.eval()(x), x)
    assert torch.equal(blanks.eval()(x), x)


def test_paths_are_dropped_by_picture_while_training() -> None:
    torch.manual_seed(0)
    drop, x = darts.DropPath(0.25), torch.ones(4000, 2, 3, 3)
    out = drop(x)

    assert out.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(out.amax((1, 2, 3)), out.amin((1, 2, 3)))
    assert out[:, 0, 0, 0].mean() == pytest.approx(1, abs=4 * (1 / 3 / 4000) ** 0.5)
    assert torch.equal(drop.eval()(x), x)


def cells(of: str, val_acc: float, *accuracies: float) -> dict[str, object]:
    return {"of": of, "val_acc": val_acc, "runs": [{"test_acc": a} for a in accuracies]}


def test_cells_count_once_each_however_often_they_are_trained() -> None:
    kept = [cells("first", 0.9, 0.7, 0.9, 0.2), cells("first", 0.8, 0.5, 0.5)]
    kept += [cells("random", 0.7, 0.4, 0.6), cells("random", 0.8, 0.6, 0.8)]

    assert search_cells.each(kept, "random", "test_acc") == pytest.approx([0.5, 0.7])
    assert search_cells.each(kept, "first", "test_acc") == pytest.approx([0.8, 0.5])
    assert search_cells.best(kept, "first", "test_acc") == [0.7, 0.9, 0.2]


def test_validation_chooses_and_test_images_have_no_say() -> None:
    kept = [cells("random", v, 1 - v) for v in (0.5, 0.7, 0.6)]

    assert search_cells.chosen(kept, "random") is kept[1]


def test_the_summary_has_the_standard_errors_of_both_sides() -> None:
    kept = [cells("first", 0.9, 0.7, 0.8), cells("first", 0.8, 0.7, 0.7)]
    kept += [cells("second", 0.9, 0.9, 0.9), cells("second", 0.8, 0.9, 0.9)]
    kept += [cells("random", 0.7, 0.4, 0.6), cells("random", 0.8, 0.6, 0.8)]
    lines = search_cells.summary(kept).splitlines()

    assert "0.6000 ± 0.1000" in lines[0]
    expected = {
        "first, all": "0.7250 ± 0.0250, over random +0.1250 ± 0.1031",
        "first, chosen": "0.7500 ± 0.0500, over random +0.1500 ± 0.1118",
        "second, chosen": "0.9000 ± 0.0000, over random +0.3000 ± 0.1000",
        "random, chosen": "0.7000 ± 0.1000, over random +0.1000 ± 0.1414",
    }
    for start, figure in expected.items():
        assert f"{start}: {figure}" in lines


def test_the_genotype_has_the_two_heaviest_edges_of_each_node() -> None:
    weights = torch.zeros(5, 8)
    weights[:, 0] = 9  # `none` does not count
    weights[0, 4], weights[1, 3] = 0.2, 0.3  # node 0: both edges
    weights[2, 1], weights[3, 7], weights[4, 5] = 0.5, 0.1, 0.4  # node 1: edges 0 and 2

    expected = [("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("sep_conv_5x5", 2)]
    assert darts.genotype(weights) == expected


def test_one_operation_per_edge_is_the_network_of_that_genotype() -> None:
    """With weight 1 on the chosen operations and 0 elsewhere both networks are the same."""
    torch.manual_seed(0)
    cell = [("dil_conv_5x5", 0), ("avg_pool_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 2)]
    at, weights = [0, 1, 2, 4], torch.zeros(5, 8)
    for edge, (name, _) in zip(at, cell, strict=True):
        weights[edge, darts.OPERATIONS.index(name)] = 1
    mixed = darts.Network(1, 4, 3, 10, 2)
    found = darts.found(1, 4, 3, 10, darts.written(cell), darts.written(cell))
    for from_, to in zip(mixed.cells, found.cells, strict=True):
        to.before.load_state_dict(from_.before.state_dict())
        to.last.load_state_dict(from_.last.state_dict())
        for k, (edge, (name, _)) in enumerate(zip(at, cell, strict=True)):
            operation = from_.edges[edge].operations[darts.OPERATIONS.index(name)]
            # The norms of a mixture have no weights; those of the found cell begin as one and zero.
            to.edges[k].load_state_dict(operation.state_dict(), strict=False)
    found.stem.load_state_dict(mixed.stem.state_dict())
    found.head.load_state_dict(mixed.head.state_dict())
    x = torch.randn(3, 1, 8, 8)

    assert torch.allclose(found(x), mixed(x, weights, weights), atol=1e-6)
