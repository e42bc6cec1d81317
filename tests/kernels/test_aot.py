"""The committed table of registers, spills and shared memory is that of the kernels as they are."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from bettyc.kernels import aot, jit

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter does not compile"
)
REMAKE = "run python -m bettyc.kernels.aot"


@pytest.fixture(scope="module")
def launches():
    return dict(aot.launches())


def test_every_kernel_is_compiled(launches):
    """A new @jit function must be in a case, or be called by a kernel that is."""
    compiled = {launch.kernel.name for launch in launches.values()}
    for path in Path(aot.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        called = {
            n.func.id
            for n in ast.walk(tree)
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(d) == "jit" for d in node.decorator_list
            ):
                assert node.name in compiled | called, node.name


def test_the_table_is_of_these_kernels(launches):
    """The key covers source, block sizes, types and Triton's version; other versions give other
    code.
    """
    import triton

    table = aot.read()
    assert set(table["launches"]) == set(launches), REMAKE
    if table["triton"] != triton.__version__:
        pytest.skip(
            f"the table was made with Triton {table['triton']}, this is {triton.__version__}"
        )
    stale = [
        name
        for name, launch in launches.items()
        if table["launches"][name]["key"] != aot.key(launch)
    ]
    assert not stale, f"{REMAKE}; stale: {stale}"


@pytest.mark.parametrize("target", aot.TARGETS)
def test_compiling_gives_the_numbers_of_the_table(launches, target):
    """For two small kernels per target; the keys stand for the others."""
    import triton

    table = aot.read()
    if table["triton"] != triton.__version__:
        pytest.skip(
            f"the table was made with Triton {table['triton']}, this is {triton.__version__}"
        )
    for name in ("neumann_update: neumann_update_kernel", "cg_single: cg_single_sums_kernel"):
        assert aot.measure(launches[name], target) == table["launches"][name][target]


def test_nothing_spills():
    for name, row in aot.read()["launches"].items():
        for target in aot.TARGETS:
            assert row[target]["spills"] == 0, (name, target)


def test_shared_memory_fits():
    """Bytes that a program may have on each target."""
    limits = {"sm_80": 163 << 10, "sm_90": 227 << 10, "gfx942": 64 << 10}
    for name, row in aot.read()["launches"].items():
        for target, limit in limits.items():
            assert row[target]["shared"] <= limit, (name, target)


def test_a_kernel_that_spills_is_seen():
    """The spill counter is not blind: a row, its sum and v are 192 registers per thread, and 128
    is the limit.
    """
    from bettyc.kernels import xt_phi_x_triton

    with pytest.MonkeyPatch.context() as patch, jit.record() as made:
        patch.setattr(xt_phi_x_triton, "MAX_RESIDENT_VECTOR", 1 << 15)
        with aot.dispatch.use("interpret"):
            aot._gram(1 << 15, 0, aot.Diagonal(aot.torch.zeros(512)))
    assert aot.measure(made[0], "sm_90")["spills"] > 0
