"""Which way an operation runs, and what happens where one is missing or fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from bettyc.kernels import dispatch, jit, native
from bettyc.kernels.neumann_update import neumann_update

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def usual_mode():
    with dispatch.use("auto"):
        yield


@pytest.fixture
def fresh_native(monkeypatch):
    """Look for the library anew, and forget what was found afterwards."""
    native.library.cache_clear()
    monkeypatch.setattr(native, "_why", "")
    monkeypatch.setattr(dispatch, "_ways", {})
    yield
    native.library.cache_clear()


def test_choice_by_device():
    assert dispatch.choose("cg_update", CUDA, torch.float32).way == "triton"
    assert dispatch.choose("cg_update", torch.device("meta"), torch.float32).way == "torch"
    bf16 = dispatch.choose("cg_update", CPU, torch.bfloat16)
    assert (bf16.way, bf16.why) == ("torch", "no CPU kernel for torch.bfloat16")
    with dispatch.use("torch"):
        assert dispatch.choose("cg_update", CUDA, torch.float32).way == "torch"
        assert dispatch.choose("cg_update", CPU, torch.float32).way == "torch"
    with dispatch.use("interpret"):
        assert dispatch.choose("cg_update", CPU, torch.float32).way == "triton"


def test_without_triton(monkeypatch):
    monkeypatch.setattr(jit, "installed", lambda: False)
    found = dispatch.choose("cg_update", CUDA, torch.float32)
    assert (found.way, found.why) == ("torch", "Triton is not installed")


def failing(*args):
    from triton.compiler.errors import CompilationError

    raise CompilationError("", None, "out of registers")


def test_a_kernel_that_does_not_compile_falls_back_with_one_warning(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(dispatch, "_broken", {})
    monkeypatch.setattr(dispatch, "_ways", {})
    ways = {"triton": failing, "torch": lambda a: a + 1}
    like = SimpleNamespace(device=CUDA, dtype=torch.float32)
    with pytest.warns(
        RuntimeWarning, match="kernel trial did not compile and plain torch takes its place"
    ) as seen:
        assert dispatch.run("trial", ways, like, 1) == 2
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert dispatch.run("trial", ways, like, 2) == 3
    found = dispatch.choose("trial", CUDA, torch.float32)
    assert found.way == "torch"
    assert "did not compile" in found.why
    assert dispatch.choose("another", CUDA, torch.float32).way == "triton"


def test_an_error_of_another_kind_is_not_swallowed(monkeypatch):
    pytest.importorskip("triton")
    like = SimpleNamespace(device=CUDA, dtype=torch.float32)

    def refuse():
        raise ValueError("shape")

    with pytest.raises(ValueError, match="shape"):
        dispatch.run("trial", {"triton": refuse, "torch": lambda: 1}, like)


def test_triton_mode_makes_it_an_error(monkeypatch):
    pytest.importorskip("triton")
    from triton.compiler.errors import CompilationError

    monkeypatch.setattr(dispatch, "_broken", {})
    like = SimpleNamespace(device=CUDA, dtype=torch.float32)
    with dispatch.use("triton"), pytest.raises(CompilationError):
        dispatch.run("trial", {"triton": failing, "torch": lambda: 1}, like)


def test_an_operation_without_a_c_kernel_runs_in_torch():
    like = torch.zeros(1)
    assert dispatch.run("trial", {"torch": lambda: 7}, like) == 7


def test_no_compiler(monkeypatch, fresh_native):
    """Nobody is warned: plain torch is the documented way there."""
    monkeypatch.setenv("BETTYC_CC", "no-such-compiler")
    found = dispatch.choose("neumann_update", CPU, torch.float32)
    assert found.way == "torch"
    assert found.why == "no C compiler: no-such-compiler is not on the path"
    v, total = torch.ones(3), torch.zeros(3)
    neumann_update(v, total, torch.ones(3), 0.25)
    assert total.tolist() == [0.75] * 3


def test_a_compiler_that_fails_warns_once(monkeypatch, tmp_path, fresh_native):
    compiler = tmp_path / "failing-cc"
    compiler.write_text("#!/bin/sh\necho 'no headers' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("BETTYC_CC", str(compiler))
    monkeypatch.setenv("BETTYC_CACHE", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="could not build the CPU kernels.*no headers"):
        assert dispatch.choose("neumann_update", CPU, torch.float32).way == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.library() is None


def test_a_cache_that_others_can_write_is_not_used(monkeypatch, tmp_path, fresh_native):
    if native.shutil.which("cc") is None:
        pytest.skip("no C compiler")
    folder = tmp_path / "kernels"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("BETTYC_CACHE", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="can be written by, someone else"):
        assert native.library() is None
    assert list(folder.iterdir()) == []


def test_the_library_is_built_once(monkeypatch, tmp_path, fresh_native):
    if native.shutil.which("cc") is None:
        pytest.skip("no C compiler")
    monkeypatch.setenv("BETTYC_CACHE", str(tmp_path))
    assert native.library() is not None
    (made,) = (tmp_path / "kernels").iterdir()
    stamp = made.stat().st_mtime_ns
    native.library.cache_clear()
    assert native.library() is not None
    assert [p.stat().st_mtime_ns for p in (tmp_path / "kernels").iterdir()] == [stamp]


def test_loading_the_library_leaves_denormal_numbers_alone():
    """-ffast-math would have flushed them to zero, for the whole process."""
    native.library()
    assert float(torch.tensor(1e-310, dtype=torch.float64) / 2) > 0


def test_interpreting_after_triton_has_been_loaded_to_compile(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setitem(sys.modules, "triton", sys)
    v = torch.ones(3)
    with (
        dispatch.use("interpret"),
        pytest.raises(RuntimeError, match="set TRITON_INTERPRET=1 before"),
    ):
        neumann_update(v, v.clone(), v.clone(), 0.1)


def test_the_environment_variable():
    code = "from bettyc.kernels import dispatch; print(dispatch._mode)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BETTYC_KERNELS": "torch"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "torch\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BETTYC_KERNELS": "cuda"},
        capture_output=True,
        text=True,
    )
    assert "BETTYC_KERNELS is 'cuda'; it can be auto, torch, triton, interpret" in done.stderr


KERNELS = """
import torch
from bettyc.kernels import cg, cg_small, optimizer_step, weighted_loss, xt_phi_x
cg.cg(lambda p: 2 * p, torch.ones(5))
"""
PROGRAM = """
import sys
import bettyc
run = bettyc.load(sys.argv[1]).compile(opt=1).start()
run.step()
"""


@pytest.mark.parametrize("code", [KERNELS, PROGRAM], ids=["kernels", "program"])
def test_a_cpu_run_does_not_import_triton(code):
    """It would cost 75 MiB and 0.2 s; torch.utils.flop_counter imports it too."""
    program = Path(__file__).parents[2] / "examples" / "logistic_hpo.mlo"
    code += "\nimport sys; print('triton' in sys.modules)"
    command = [sys.executable, "-c", code, str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.gpu
def test_there_is_a_gpu_and_its_kernels_compile():
    """With a GPU, every other test of the operations runs on it too."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    v = torch.ones(3, device="cuda")
    with dispatch.use("triton"):
        neumann_update(v, v.clone(), v.clone(), 0.25)
    assert v.tolist() == [0.75] * 3


def test_no_kernel_asks_for_finiteness_by_subtraction():
    """Of a product v a GPU computes v - v as a fused fma(a, b, -v): the rounding error, not 0."""
    texts = {p.name: p.read_text() for p in Path(dispatch.__file__).parent.glob("*.py")}
    found = {name for name, text in texts.items() if re.search(r"\b(\w+) - \1 !?= ", text)}

    assert len(texts) > 20
    assert not found
