"""The loader of CIFAR-10, on files in the published format, and the cells of darts.py."""

from __future__ import annotations

import importlib.util
import pickle
import tarfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pictures, darts = load("pictures"), load("darts")


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
            to.edges[k].load_state_dict(operation.state_dict())
    found.stem.load_state_dict(mixed.stem.state_dict())
    found.head.load_state_dict(mixed.head.state_dict())
    x = torch.randn(3, 1, 8, 8)

    assert torch.allclose(found(x), mixed(x, weights, weights), atol=1e-6)
