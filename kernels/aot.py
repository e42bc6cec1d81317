"""Compile every kernel ahead of time, without a GPU: registers, spills and shared memory.

    python -m bettyc.kernels.aot           compile what has changed and rewrite aot_table.json

Each case calls a launcher on small CPU tensors inside `jit.record()` and compiles what it would
have launched, with the block sizes, types and alignments it would have had. A row's key is a hash
of the kernel's source, these, and Triton's version; rows whose key has not changed are kept.
NVIDIA: registers per thread, bytes of stack (spills live there), bytes of shared memory. AMD:
vector registers per lane, spilled vector registers, bytes of local memory.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bettyc.kernels import cg_batched, cg_single, cg_small, cg_update, dispatch, jit
from bettyc.kernels import optimizer_step as optimizer
from bettyc.kernels.neumann_update import neumann_update
from bettyc.kernels.perturb import perturb
from bettyc.kernels.phi import Centred, Diagonal, GaussNewton, Phi, Softmax
from bettyc.kernels.weighted_loss import weighted_loss
from bettyc.kernels.xt_phi_x import xt_phi_x

TABLE = Path(__file__).with_name("aot_table.json")
TARGETS = {"sm_80": ("cuda", 80, 32), "sm_90": ("cuda", 90, 32), "gfx942": ("hip", "gfx942", 64)}
TYPES = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
}
LARGE = 1 << 20


def cases() -> dict[str, Callable[[], Any]]:
    """What a run at default block sizes launches, by name."""
    f = torch.zeros
    options = optimizer.Options
    found: dict[str, Callable[[], Any]] = {
        "cg_update": lambda: _step(cg_update.start, cg_update.cg_update),
        "cg_single": lambda: _step(cg_single.start, cg_single.cg_single),
        "cg_batched": lambda: cg_batched.step(
            cg_batched.start(f(8, 4096), f(8, 4096), f(8, dtype=torch.float64)), f(8, 4096)
        ),
        "cg_small 64": lambda: cg_small.cg_small(f(2, 64, 64), f(2, 64)),
        "cg_small 128": lambda: cg_small.cg_small(f(2, 128, 128), f(2, 128)),
        "cg_small 1024": lambda: cg_small.cg_small(f(2, 1024, 1024), f(2, 1024)),
        "neumann_update": lambda: neumann_update(f(LARGE), f(LARGE), f(LARGE), 0.1),
        "perturb": lambda: perturb(f(LARGE), f(LARGE), 0.01),
        "weighted_loss bce": lambda: weighted_loss("bce", f(4096), f(4096), f(4096), 1.0),
        "weighted_loss squared": lambda: weighted_loss("squared", f(4096), f(4096), f(4096), 1.0),
        "weighted_loss xent 10": lambda: _xent(10),
        "weighted_loss xent 1000": lambda: _xent(1000),
        "sgd": lambda: _optimizer(options("sgd", weight_decay=0.1)),
        "nesterov": lambda: _optimizer(options("sgd", momentum=0.9, nesterov=True)),
        "adam clipped": lambda: _optimizer(options("adam", max_norm=2.0)),
        "adamw": lambda: _optimizer(options("adamw", weight_decay=0.1)),
    }
    for d in (128, 1024, 4096, 8192, 10000):
        found[f"xt_phi_x vector {d}"] = lambda d=d: _gram(d, 0, Diagonal(f(512)))
    found["xt_phi_x vector 1024 bf16"] = lambda: _gram(1024, 0, Diagonal(f(512)), x=torch.bfloat16)
    found["xt_phi_x vector 1024 atomic"] = lambda: _gram(1024, 0, Diagonal(f(512)), fixed=False)
    for precision in ("ieee", "tf32"):
        found[f"xt_phi_x softmax 200 10 {precision}"] = lambda p=precision: _gram(
            200, 10, Softmax(f(512, 10), f(512)), precision=p
        )
        found[f"xt_phi_x softmax 784 10 {precision}"] = lambda p=precision: _gram(
            784, 10, Softmax(f(512, 10), f(512)), precision=p
        )
        found[f"xt_phi_x softmax 10000 10 {precision}"] = lambda p=precision: _gram(
            10000, 10, Softmax(f(512, 10)), precision=p
        )
    for d in (200, 784):
        found[f"xt_phi_x centred {d} 10"] = lambda d=d: _gram(
            d, 10, Centred(f(512, 10), f(512, 10))
        )
    found["xt_phi_x gauss_newton 256 10"] = lambda: _gram(256, 10, GaussNewton(f(512, 10, 10)))
    found["xt_phi_x gauss_newton 4096 10"] = lambda: _gram(4096, 10, GaussNewton(f(512, 10, 10)))
    found["xt_phi_x diagonal 4096 4"] = lambda: _gram(4096, 4, Diagonal(f(512, 4)))
    return found


def _step(start: Callable[..., Any], step: Callable[..., Any]) -> None:
    x = torch.zeros(LARGE)
    goal = torch.zeros((), dtype=torch.float64)
    step(start(x, x.clone(), goal, 64, 0.1), x.clone(), 0)


def _xent(k: int) -> None:
    y = torch.zeros(512, dtype=torch.int64)
    weighted_loss("xent", torch.zeros(512, k), y, torch.zeros(512), 1.0)


def _optimizer(options: optimizer.Options) -> None:
    theta = torch.zeros(LARGE)
    optimizer.optimizer_step(theta, theta.clone(), optimizer.start(theta, options), 0.1, options)


def _gram(
    d: int,
    k: int,
    phi: Phi,
    x: torch.dtype = torch.float32,
    fixed: bool = True,
    precision: str = "ieee",
) -> None:
    v = torch.zeros(d, k) if k else torch.zeros(d)
    xt_phi_x(torch.zeros(512, d, dtype=x), v, phi, deterministic=fixed, precision=precision)


def launches() -> Iterator[tuple[str, jit.Launch]]:
    """Every launch of every case, under the case's and the kernel's name."""
    for name, call in cases().items():
        with dispatch.use("interpret"), jit.record() as made:
            call()
        for launch in made:
            yield f"{name}: {launch.kernel.name}", launch


def source(launch: jit.Launch) -> tuple[Any, dict[str, Any]]:
    """The launch as Triton's compiler takes it, and its options."""
    from triton.compiler import ASTSource

    function = launch.kernel.compiled
    options = dict(launch.options)
    signature: dict[str, str] = {}
    constants: dict[Any, Any] = {}
    attributes: dict[Any, Any] = {}
    for i, parameter in enumerate(function.params):
        name = parameter.name
        value = launch.args[i] if i < len(launch.args) else options.pop(name)
        if parameter.is_constexpr or (isinstance(value, int) and value == 1):
            signature[name], constants[(i,)] = "constexpr", value
        elif isinstance(value, Tensor):
            signature[name] = TYPES[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[name] = "i32" if value < 2**31 else "i64"
            attributes |= {} if value % 16 else {(i,): [["tt.divisibility", 16]]}
        else:
            signature[name] = parameter.annotation_type
    return ASTSource(function, signature, constants, attributes), options


def key(launch: jit.Launch) -> str:
    """What the compiled code depends on, the target apart."""
    import triton

    made, options = source(launch)
    # not Triton's own cache key, which moves with the line number
    parts = (
        _texts(made.fn),
        made.signature,
        made.constants,
        made.attrs,
        options,
        triton.__version__,
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _texts(function: Any) -> list[str]:
    """The sources of a compiled function and of the device functions it calls."""
    names, found = function.fn.__globals__, [function.src]
    for name in function.fn.__code__.co_names:
        if hasattr(names.get(name), "src"):
            found += _texts(names[name])
    return found


def measure(launch: jit.Launch, target: str) -> dict[str, int]:
    """Compile for a target; registers, spills and shared memory. Raises RuntimeError where the
    tools for it are missing.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    made, options = source(launch)
    compiled = triton.compile(made, target=GPUTarget(*TARGETS[target]), options=options)
    shared = int(compiled.metadata.shared)
    if target.startswith("gfx"):
        text = compiled.asm["amdgcn"]
        return {
            "registers": _number(r"\.vgpr_count:\s+(\d+)", text),
            "spills": _number(r"\.vgpr_spill_count:\s+(\d+)", text),
            "shared": shared,
        }
    usage = _resources(compiled.asm["cubin"])
    return {
        "registers": _number(r"REG:(\d+)", usage),
        "spills": _number(r"STACK:(\d+)", usage),
        "shared": shared,
    }


def _resources(cubin: bytes) -> str:
    """What cuobjdump, which comes with Triton, says of a cubin."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"no {pattern} in the compiler's output")
    return int(found.group(1))


def read() -> dict[str, Any]:
    """The committed table: {"triton": version, "launches": {name: {"key": ..., target:
    {"registers", "spills", "shared"}}}}.
    """
    table: dict[str, Any] = {"triton": "", "launches": {}}
    return json.loads(TABLE.read_text()) if TABLE.exists() else table


def write() -> int:
    """Bring the table up to date; how many launches were compiled."""
    import triton

    old, new, compiled = read()["launches"], {}, 0
    for name, launch in launches():
        found = key(launch)
        if old.get(name, {}).get("key") == found:
            new[name] = old[name]
            continue
        compiled += 1
        new[name] = {"key": found} | {target: measure(launch, target) for target in TARGETS}
        print(name, {target: tuple(new[name][target].values()) for target in TARGETS}, flush=True)
    rows = ",\n".join(
        f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(new.items())
    )
    version = json.dumps(triton.__version__)
    TABLE.write_text(f'{{\n  "triton": {version},\n  "launches": {{\n{rows}\n  }}\n}}\n')
    return compiled


if __name__ == "__main__":
    print(f"{write()} launches compiled")
