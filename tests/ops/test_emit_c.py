"""Formulas in C: every operator against its reference, sums of matrix products against torch,
memory that a function is told to fill, and what has no text in C.
"""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
from operator_cases import CASES, DTYPES, Case, apply, names_of, sample, sizes

from bettyc import emit_c
from bettyc.expr import Graph, Node
from bettyc.kernels import blas, formula, native
from bettyc.ops.term import Term
from bettyc.types import Tensor, number

SEEDS = (0, 1, 2)
# What stays torch's: decompositions, scans, positions and what is made of those; the last two over
# several axes, and of more than two.
MISSING = {
    "accuracy", "argmax", "argmin", "cumsum", "diag", "flip", "inv", "logdet", "prod", "solve",
    "stack", "trace", "logsumexp", "matmul",
}  # fmt: skip

pytestmark = pytest.mark.skipif(
    native.library() is None or blas.gemm(torch.float64) is None, reason="no C compiler or no BLAS"
)


def leaf(index: int, node: Node) -> emit_c.Place:
    return str(node.attr("name")), 0


def written(case: Case, seed: int, name: str) -> emit_c.Text | None:
    """A case as C; None where it has none."""
    graph = Graph()
    root, _ = apply(graph, case)
    try:
        return emit_c.function(
            graph, [root], name=name, leaf=leaf, sizes=sizes(seed), given={}, into=[None]
        )
    except emit_c.Unsupported:
        return None


@pytest.fixture(scope="module")
def library() -> tuple[ctypes.CDLL, dict[str, emit_c.Text]]:
    """All cases in one library: a compiler's start is most of its time."""
    texts = {}
    for (k, case), seed in itertools.product(enumerate(CASES), SEEDS):
        name = f"f{k}_{seed}"
        found = written(case, seed, name)
        if found is not None:
            texts[name] = found
    source = formula.source("\n".join(t.text for t in texts.values()), torch.float64)
    return native.written(source), texts


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("k", range(len(CASES)), ids=lambda k: str(CASES[k]))
def test_value(library: tuple[ctypes.CDLL, dict[str, emit_c.Text]], k: int, seed: int) -> None:
    compiled, texts = library
    case, name = CASES[k], f"f{k}_{seed}"
    if name not in texts:
        pytest.skip("no text in C")
    text = texts[name]
    values = dict(zip(names_of(case), sample(case, seed), strict=True))
    held = {
        base: values[base].to(DTYPES[kind]).contiguous()
        for base, kind in zip(text.pointers, text.kinds, strict=True)
        if base in values
    }
    (out,) = [torch.full(shape, float("nan"), dtype=torch.float64) for shape in text.results]
    pointers = (ctypes.c_void_p * len(text.pointers))(
        *(held[b].data_ptr() if b in held else out.data_ptr() for b in text.pointers)
    )
    scratch = torch.full((text.scratch + 1,), float("nan"), dtype=torch.float64)
    entry = getattr(compiled, name)
    entry.argtypes, entry.restype = (ctypes.c_void_p,) * 3, None
    entry(pointers, scratch.data_ptr(), blas.gemm(torch.float64))
    expected = case.reference(*values.values()).to(torch.float64)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


def test_only_these_have_no_text() -> None:
    found = {c.op for k, c in enumerate(CASES) if written(c, 1, f"f{k}") is None}
    assert found <= MISSING, found - MISSING


def run(
    graph: Graph, outputs: list[int], into: list[emit_c.Place | None], values: dict, dtype
) -> tuple[torch.Tensor, ...]:
    text = emit_c.function(
        graph, outputs, name="f", leaf=leaf, sizes={}, given={}, into=into
    )  # fmt: skip
    made = formula.Function("f", text.text, text.kinds, text.scratch, text.results, dtype)
    positions = [k for k, b in enumerate(text.pointers) if b.startswith("result[")]
    return made([values.get(b) for b in text.pointers], positions)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])
def test_sums_of_products_into_parts_of_a_tensor(dtype: torch.dtype) -> None:
    """Scaled, turned, added up, negated, beside something else; in memory with an offset."""
    graph = Graph()
    shapes = {"a": (5, 3), "b": (3, 4), "c": (4, 3), "d": (3, 5), "e": (5, 4), "r": (4,)}
    a, b, c, d, e, r = (
        Term(graph, graph.leaf("var", Tensor("real", tuple(map(number, s))), level="l", name=n))
        for n, s in shapes.items()
    )

    def turned(x: Term) -> Term:
        return x.call("permute", axes=(1, 0))

    outputs = [
        (a @ b) * 2.0 - turned(c @ d) * 0.5 + e,
        turned((a @ b) + e),
        -(turned(d) @ b),
        turned(c @ turned(a)) @ turned(r.new_axis(0)),
        (a @ b + r).call("relu"),
        e - (a @ b) / 4.0,
    ]
    into: list[emit_c.Place | None] = [
        ("out", 3),
        ("out", 24),
        ("out", 50),
        None,
        None,
        ("out", 71),
    ]
    g = torch.Generator().manual_seed(3)
    values = {n: torch.randn(s, generator=g, dtype=torch.float64) for n, s in shapes.items()}
    A, B, C, D, E, R = values.values()
    out = torch.full((100,), 7.0, dtype=dtype)
    found = run(
        graph, [o.index for o in outputs], into,
        {**{n: v.to(dtype) for n, v in values.items()}, "out": out}, dtype,
    )  # fmt: skip
    wanted = [
        2 * A @ B - 0.5 * (C @ D).mT + E, (A @ B + E).mT, -D.mT @ B, (C @ A.mT).mT @ R[:, None],
        torch.relu(A @ B + R), E - A @ B / 4,
    ]  # fmt: skip
    close = (
        {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-5}
    )
    for place, want in zip(into, wanted, strict=True):
        if place is not None:
            part = out[place[1] : place[1] + want.numel()].view(want.shape)
            torch.testing.assert_close(part.double(), want, **close)
    torch.testing.assert_close(found[0].double(), wanted[3], **close)
    torch.testing.assert_close(found[1].double(), wanted[4], **close)
    gaps = torch.cat([out[:3], out[23:24], out[44:50], out[70:71], out[91:]])
    assert (gaps == 7).all()


def test_long_sums_keep_their_digits() -> None:
    """In float32, by rows and by columns; what is added one by one loses four digits."""
    graph = Graph()
    x = Term(
        graph, graph.leaf("var", Tensor("real", (number(9000), number(20))), level="l", name="x")
    )
    value = torch.rand(9000, 20, generator=torch.Generator().manual_seed(0)) + 1
    down, across = run(
        graph, [x.sum(0).index, x.sum(1).index], [None, None], {"x": value}, torch.float32
    )
    torch.testing.assert_close(down.double(), value.double().sum(0), rtol=2e-6, atol=0)
    torch.testing.assert_close(across.double(), value.double().sum(1), rtol=2e-6, atol=0)


def test_nan_and_infinity_go_through() -> None:
    graph = Graph()
    x = Term(graph, graph.leaf("var", Tensor("real", (number(4),)), level="l", name="x"))
    value = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    outputs = [x.call(op).index for op in ("relu", "sigmoid", "softmax", "tanh", "exp")]
    found = run(graph, outputs, [None] * 5, {"x": value}, torch.float32)
    for op, got in zip(
        (torch.relu, torch.sigmoid, None, torch.tanh, torch.exp), found, strict=True
    ):
        want = torch.softmax(value, 0) if op is None else op(value)
        torch.testing.assert_close(got, want, equal_nan=True)


def test_a_large_tensor_is_torchs() -> None:
    graph = Graph()
    x = Term(
        graph, graph.leaf("var", Tensor("real", (number(emit_c.LARGE + 1),)), level="l", name="x")
    )
    with pytest.raises(emit_c.Unsupported, match="elements"):
        run(graph, [x.call("exp").index], [None], {}, torch.float32)


@pytest.mark.parametrize("axis", [1, -1])
def test_pieces_along_an_axis_from_the_end(axis: int) -> None:
    """Of an expression that is nowhere in memory."""
    graph = Graph()
    x = Term(graph, graph.leaf("var", Tensor("real", (number(3), number(6))), level="l", name="x"))
    piece = Tensor("real", (number(3), number(2)))
    narrow = (x * 2.0).make("narrow", piece, axis=axis, start=number(4).terms)
    pad = (narrow + 1.0).make("pad", x.tensor, axis=axis, start=number(1).terms)
    value = torch.arange(18.0).view(3, 6)
    found = run(graph, [narrow.index, pad.index], [None, None], {"x": value}, torch.float32)
    assert torch.equal(found[0], 2 * value[:, 4:])
    assert torch.equal(found[1], torch.nn.functional.pad(2 * value[:, 4:] + 1, (1, 3)))
