"""One or more cases per operator and function: operand types, how to sample them, and a reference.

References are written with torch or by hand in another form than the registry's lowering wherever
there is another form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from bettyc.emit import function
from bettyc.expr import Graph, Node
from bettyc.ops import FUNCTIONS, build
from bettyc.types import Dim, Tensor, number, symbol

Reference = Callable[..., Any]
DTYPES = {"real": torch.float64, "int": torch.int64, "bool": torch.bool}


@dataclass(frozen=True)
class Case:
    """An operator on operands of these types."""

    op: str
    operands: tuple[str, ...]
    reference: Reference
    attrs: dict[str, Any] = field(default_factory=dict)
    domain: str = "any"  # of the real operands: any, positive, unit, square, spd, simplex
    kink: tuple[Any, ...] | None = None  # operands at which a piecewise operator has its kink

    def __str__(self) -> str:
        attrs = "".join(f",{k}={v}" for k, v in self.attrs.items())
        return f"{self.op}({';'.join(self.operands)}{attrs})".replace(" ", "")


def parse(text: str) -> Tensor:
    """`int<C>[n, d]`."""
    match = re.fullmatch(r"(real|int|bool)(?:<(\w+)>)?(?:\[(.*)\])?", text)
    assert match, text
    kind, labels, dims = match.groups()

    def dim(word: str) -> Dim:
        return number(int(word)) if word.strip().isdigit() else symbol(word.strip())

    shape = tuple(dim(w) for w in dims.split(",")) if dims else ()
    return Tensor(kind, shape, dim(labels) if labels else None)


def apply(graph: Graph, case: Case) -> tuple[int, list[int]]:
    """The case's node and its operand leaves."""
    leaves = [
        graph.leaf("var", parse(text), level="l", name=f"x{i}")
        for i, text in enumerate(case.operands)
    ]
    if case.op in FUNCTIONS:
        return build(graph, case.op, leaves, case.attrs), leaves
    return graph.add(case.op, *leaves, **case.attrs), leaves


def sizes(seed: int) -> dict[str, int]:
    """Small sizes, all different from each other in most draws; seed 0 makes all of them 1."""
    generator = torch.Generator().manual_seed(seed)
    names = ("n", "d", "k", "m", "C", "B")
    draws = torch.randint(2, 6, (len(names),), generator=generator).tolist()
    return dict.fromkeys(names, 1) if seed == 0 else dict(zip(names, draws, strict=True))


def sample(case: Case, seed: int, draw: int = 0) -> list[torch.Tensor]:
    """Operands in float64, int64 and bool; every draw has other values of the same sizes."""
    generator = torch.Generator().manual_seed(1000 + seed + 10000 * draw)
    bound = {k: number(v) for k, v in sizes(seed).items()}
    values = []
    for text in case.operands:
        type_ = parse(text)
        shape = [int(d.bind(bound).value or 0) for d in type_.shape]
        if type_.kind == "real":
            values.append(_real(shape, case.domain, generator))
        elif type_.kind == "bool":
            values.append(torch.rand(shape, generator=generator) < 0.5)
        else:
            top = type_.labels.bind(bound).value if type_.labels is not None else bound["n"].value
            values.append(torch.randint(0, top or 1, shape, generator=generator))
    return values


def _real(shape: list[int], domain: str, generator: torch.Generator) -> torch.Tensor:
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if domain == "positive":
        return x.abs() + 0.1
    if domain == "unit":
        return torch.sigmoid(x)
    if domain == "simplex":
        return torch.softmax(x, -1)
    if domain == "square" and len(shape) >= 2 and shape[0] == shape[1]:
        return x + 3 * torch.eye(shape[-1], dtype=torch.float64)
    if domain == "spd" and len(shape) >= 2:
        return x @ x.mT + torch.eye(shape[-1], dtype=torch.float64)
    return x


def compiled(graph: Graph, outputs: list[int], names: list[str], **more: Any) -> Callable[..., Any]:
    """The emitted function, taking all of `names` by position whether it uses them or not."""

    def leaf(index: int, node: Node) -> str:
        return str(node.attr("name"))

    text = function(graph, outputs, name="f", leaf=leaf, **more)
    space: dict[str, Any] = {"torch": torch}
    exec(compile(text, "<emitted>", "exec"), space)
    used = space["f"].__code__.co_varnames[: space["f"].__code__.co_argcount]

    def call(*values: Any) -> Any:
        known = dict(zip(names, values, strict=True))
        return space["f"](**{name: known[name] for name in used})

    return call


def names_of(case: Case) -> list[str]:
    return [f"x{i}" for i in range(len(case.operands))]


N, ND, NDK = "real[n]", "real[n, d]", "real[n, d, k]"
F = torch.nn.functional


def _unary(
    op: str, reference: Reference, domain: str = "any", kink: Any = None, **attrs: Any
) -> Case:
    points = None if kink is None else (torch.full((1,), kink, dtype=torch.float64),)
    return Case(op, (N,), reference, attrs, domain, points)


def _axes(op: str, reference: Reference, domain: str = "any", all_axes: bool = True) -> list[Case]:
    """Without an axis, and along each of several; the reference takes (x, axis)."""
    cases = [
        Case(op, (NDK,), lambda x, a=a: reference(x, a), {"axis": a}, domain) for a in (0, -1, 1)
    ]
    if all_axes:
        cases.append(Case(op, (ND,), lambda x: reference(x.reshape(-1), 0), {}, domain))
    return cases


def _two(op: str, reference: Reference, domain: str = "any", same: bool = False) -> list[Case]:
    """The broadcasts that the language has."""
    pairs = [(ND, ND)] if same else [
        (ND, ND), (ND, "real[d]"), ("real[d]", ND), (ND, "real"), ("real", N),
        (ND, "real[n, 1]"), ("real[1, d]", "real[n, 1]"), (NDK, "real[d, k]"),
    ]  # fmt: skip
    return [Case(op, pair, reference, domain=domain) for pair in pairs]


def _tie(*values: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([v], dtype=torch.float64) for v in values)


ALL, NEW = ("all",), ("new",)


def _index(operands: tuple[str, ...], reference: Reference, *spec: tuple[Any, ...]) -> Case:
    return Case("index", operands, reference, {"spec": spec})


def _huber(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.huber_loss(x, y, reduction="none", delta=0.7)


CASES: list[Case] = [
    *_two("add", lambda x, y: torch.add(x, y)),
    *_two("sub", lambda x, y: torch.sub(x, y)),
    *_two("mul", lambda x, y: torch.mul(x, y)),
    *_two("div", lambda x, y: torch.true_divide(x, y), "positive"),
    *_two("pow", lambda x, y: torch.exp(y * torch.log(x)), "positive"),
    _unary("neg", lambda x: 0 - x),
    *[Case(op, (ND, "real[d]"), getattr(torch, op)) for op in ("eq", "ne", "lt", "le", "gt", "ge")],
    Case("eq", ("bool[n]", "int<2>[n]"), lambda x, y: x.long() == y),
    Case("and", ("bool[n]", "bool[n]"), torch.logical_and),
    Case("or", ("bool[n]", "bool[n]"), torch.logical_or),
    Case("not", ("bool[n]",), torch.logical_not),
    Case("where", ("bool[n, d]", ND, "real[d]"), lambda c, x, y: c * x + ~c * y),
    Case("where", ("bool", ND, "real"), lambda c, x, y: c * x + ~c * y),
    _unary("exp", lambda x: math.e**x),
    _unary("log", lambda x: torch.log2(x) / math.log2(math.e), "positive"),
    _unary("log1p", lambda x: torch.log(1 + x), "positive"),
    _unary("expm1", lambda x: torch.exp(x) - 1),
    _unary("sqrt", lambda x: x**0.5, "positive"),
    _unary("abs", lambda x: torch.maximum(x, -x), kink=0.0),
    _unary("square", lambda x: x * x),
    _unary("sign", lambda x: (x > 0).double() - (x < 0).double()),
    _unary("floor", lambda x: x - torch.remainder(x, 1)),
    _unary("round", lambda x: torch.floor(x + 0.5)),
    _unary("sigmoid", lambda x: 1 / (1 + torch.exp(-x))),
    _unary("tanh", lambda x: 2 / (1 + torch.exp(-2 * x)) - 1),
    _unary("relu", lambda x: x * (x > 0), kink=0.0),
    _unary("leaky_relu", lambda x: torch.where(x > 0, x, 0.2 * x), kink=0.0, slope=0.2),
    _unary("elu", lambda x: torch.where(x > 0, x, 0.7 * torch.expm1(x)), kink=0.0, alpha=0.7),
    _unary("softplus", lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    _unary("gelu", lambda x: x * torch.special.ndtr(x)),
    _unary("silu", lambda x: x / (1 + torch.exp(-x))),
    _unary("sin", lambda x: torch.cos(x - math.pi / 2)),
    _unary("cos", lambda x: torch.sin(x + math.pi / 2)),
    _unary("erf", lambda x: 2 * torch.special.ndtr(x * math.sqrt(2)) - 1),
    *_two("max", lambda x, y: torch.where(x > y, x, y)),
    *_two("min", lambda x, y: torch.where(x > y, y, x)),
    Case("maximum", (N, N), torch.fmax, kink=_tie(0.3, 0.3)),
    Case("minimum", (N, N), torch.fmin, kink=_tie(0.3, 0.3)),
    *_axes("sum", lambda x, a: torch.einsum("...i->...", x.movedim(a, -1))),
    *_axes("mean", lambda x, a: x.sum(a) / x.shape[a]),
    Case("sum", ("bool[n, d]",), lambda x: x.double().sum()),
    Case("mean", ("bool[n, d]",), lambda x: x.double().mean(0), {"axis": 0}),
    Case("sum", (NDK,), lambda x: x.sum(2).sum(0), {"axis": (0, 2)}),
    Case("mean", (NDK,), lambda x: x.mean(2).mean(0), {"axis": (0, 2)}),
    *_axes("max", lambda x, a: x.sort(a).values.select(a, -1)),
    *_axes("min", lambda x, a: x.sort(a).values.select(a, 0)),
    Case(
        "amax", ("real[2]",), lambda x: x.sort().values[-1], kink=(torch.full((2,), 0.3).double(),)
    ),
    Case(
        "amin", ("real[2]",), lambda x: x.sort().values[0], kink=(torch.full((2,), 0.3).double(),)
    ),
    *_axes("prod", lambda x, a: torch.cumprod(x, a).select(a, -1)),
    *_axes("sumsq", lambda x, a: (x * x).sum(a)),
    *_axes("norm", lambda x, a: (x * x).sum(a).sqrt()),
    Case("norm", ("real[2]",), lambda x: (x * x).sum().sqrt(), kink=(torch.zeros(2).double(),)),
    *_axes("logsumexp", lambda x, a: torch.log(torch.exp(x).sum(a))),
    Case("logsumexp", (NDK,), lambda x: torch.log(torch.exp(x).sum((0, 2))), {"axis": (0, 2)}),
    *_axes("var", lambda x, a: torch.var(x, a, correction=0)),
    Case("std", ("real[3, d]",), lambda x: torch.var(x, 0, correction=0).sqrt(), {"axis": 0}),
    *_axes("argmax", lambda x, a: x.argsort(a).select(a, -1)),
    *_axes("argmin", lambda x, a: x.argsort(a).select(a, 0)),
    *_axes(
        "cumsum",
        lambda x, a: torch.stack([x.narrow(a, 0, i + 1).sum(a) for i in range(x.shape[a])], a),
        all_axes=False,
    ),
    *_axes(
        "flip",
        lambda x, a: x.index_select(a % 3, torch.arange(x.shape[a] - 1, -1, -1)),
        all_axes=False,
    ),
    *_axes(
        "softmax", lambda x, a: torch.exp(x) / torch.exp(x).sum(a, keepdim=True), all_axes=False
    ),
    *_axes(
        "log_softmax", lambda x, a: x - torch.log(torch.exp(x).sum(a, keepdim=True)), all_axes=False
    ),
    *[
        Case("matmul", pair, lambda x, y, f=formula: torch.einsum(f, x, y))
        for pair, formula in (
            (("real[k]", "real[k]"), "i,i->"),
            (("real[n, k]", "real[k]"), "ij,j->i"),
            (("real[k]", "real[k, m]"), "j,jk->k"),
            (("real[n, k]", "real[k, m]"), "ij,jk->ik"),
            (("real[B, n, k]", "real[k]"), "bij,j->bi"),
            (("real[k]", "real[B, k, m]"), "j,bjk->bk"),
            (("real[B, n, k]", "real[k, m]"), "bij,jk->bik"),
            (("real[n, k]", "real[B, k, m]"), "ij,bjk->bik"),
            (("real[B, n, k]", "real[B, k, m]"), "bij,bjk->bik"),
        )
    ],
    Case("dot", ("real[k]", "real[k]"), lambda x, y: (x * y).sum()),
    Case("outer", ("real[n]", "real[k]"), torch.outer),
    Case("transpose", (NDK,), lambda x: x.swapaxes(1, 2)),
    Case("trace", ("real[d, d]",), torch.trace),
    Case("diag", ("real[d]",), torch.diag_embed),
    Case("diag", ("real[d, d]",), lambda x: x.diagonal()),
    Case("solve", ("real[d, d]", "real[d]"), lambda a, b: torch.linalg.inv(a) @ b, domain="square"),
    Case(
        "solve", ("real[d, d]", "real[d, m]"), lambda a, b: torch.linalg.inv(a) @ b, domain="square"
    ),
    Case(
        "inv",
        ("real[d, d]",),
        lambda a: torch.linalg.solve(a, torch.eye(len(a)).double()),
        domain="square",
    ),
    Case("logdet", ("real[d, d]",), lambda a: torch.linalg.det(a).log(), domain="spd"),
    _index((NDK,), lambda x: x[:, 0], ALL, ("at", 0)),
    _index((NDK,), lambda x: x[:, :, -1], ALL, ALL, ("at", -1)),
    _index((ND,), lambda x: x.unsqueeze(1).unsqueeze(-1), ALL, NEW, ALL, NEW),
    _index(("real[7, d]",), lambda x: x[1:5], ("slice", 1, 5)),
    _index(("real[7, d]",), lambda x: x[2:-1], ("slice", 2, -1)),
    _index(("real[n, 6]",), lambda x: x[:, 3:, None], ALL, ("slice", 3, None), NEW),
    _index(("real[n]", "int[k]"), lambda x, i: x.index_select(0, i), ("take", 1)),
    _index(
        ("real[d, n]", "int[k, m]"),
        lambda x, i: torch.stack([x[:, j] for j in i], 1),
        ALL,
        ("take", 1),
    ),
    _index(("real[n, 4, d]", "int[k]"), lambda x, i: x[i][:, 1:3], ("take", 1), ("slice", 1, 3)),
    _index(("int<C>[n]", "int[k]"), lambda y, i: y.index_select(0, i), ("take", 1)),
    Case("concat", (ND, "real[k, d]"), lambda *xs: torch.vstack(xs)),
    Case("concat", (ND, "real[n, k]", ND), lambda *xs: torch.hstack(xs), {"axis": 1}),
    Case("stack", (N, N, N), lambda *xs: torch.stack(xs)),
    Case("stack", (ND, ND), lambda *xs: torch.dstack(xs), {"axis": -1}),
    Case("permute", (NDK,), lambda x: x.movedim(0, -1), {"axes": (1, 2, 0)}),
    Case("flatten", (NDK,), lambda x: x.flatten(1)),
    Case("reshape", (NDK,), lambda x: x.flatten(), {"shape": (Dim(((("d", "k", "n"), 1),)),)}),
    Case("one_hot", ("int<4>[n]",), lambda y: torch.eye(4, dtype=torch.float64)[y]),
    Case("one_hot", ("int[n]",), lambda y: torch.eye(9, dtype=torch.float64)[y], {"classes": 9}),
    Case("real", ("int<C>[n]",), lambda y: y + 0.0),
    Case("real", (N,), lambda x: x),
    Case("int", (N,), lambda x: torch.trunc(x).long()),
    Case("fill", ("real",), lambda v: torch.stack([v, v, v]), {"shape": (3,)}),
    Case("zeros", (), lambda: torch.zeros(2, 3, dtype=torch.float64), {"shape": (2, 3)}),
    Case("ones", (), lambda: torch.ones(2, dtype=torch.float64), {"shape": (2,)}),
    Case("eye", (), lambda: torch.diag(torch.ones(3, dtype=torch.float64)), {"size": 3}),
    Case("bce", (N, "int<2>[n]"), lambda z, y: torch.log(1 + torch.exp(z)) - y * z),
    Case("bce", (ND, "bool[n, d]"), lambda z, y: torch.log(1 + torch.exp(z)) - y * z),
    Case("bce", (N, N), lambda z, y: torch.log(1 + torch.exp(z)) - y * z, domain="unit"),
    Case(
        "xent",
        ("real[n, C]", "int<C>[n]"),
        lambda z, y: torch.logsumexp(z, 1) - z[torch.arange(len(y)), y],
    ),
    Case("xent", ("real[C]", "int<C>"), lambda z, y: torch.logsumexp(z, 0) - z[y]),
    Case(
        "xent",
        ("real[n, d, C]", "int<C>[n, d]"),
        lambda z, y: torch.logsumexp(z, 2) - z.gather(2, y[..., None])[..., 0],
    ),
    Case(
        "xent",
        ("real[n, C]", "real[n, C]"),
        lambda z, p: torch.logsumexp(z, 1) * p.sum(1) - (z * p).sum(1),
    ),
    Case("pick", ("real[n, C]", "int<C>[n]"), lambda x, y: x[torch.arange(len(y)), y]),
    Case("mae", (ND, ND), F.l1_loss),
    Case("huber", (N, N), _huber, {"delta": 0.7}),
    Case("hinge", (N, "int<2>[n]"), lambda s, y: torch.clamp(1 - (2 * y - 1) * s, min=0)),
    Case(
        "kl",
        (ND, ND),
        lambda p, q: F.kl_div(q.log(), p, reduction="none").sum(-1),
        domain="simplex",
    ),
    Case("entropy", (ND,), lambda p: -torch.xlogy(p, p).sum(-1), domain="simplex"),
    Case(
        "accuracy",
        ("real[n, C]", "int<C>[n]"),
        lambda z, y: (z.max(1).indices == y).double().mean(),
    ),
    Case("accuracy", (N, "int<2>[n]"), lambda z, y: ((z > 0).long() == y).double().mean()),
    Case(
        "normal_log_prob",
        (N, N, N),
        lambda x, m, s: torch.distributions.Normal(m, s).log_prob(x),
        domain="positive",
    ),
    Case(
        "categorical_log_prob",
        ("real[n, C]", "int<C>[n]"),
        lambda z, y: torch.distributions.Categorical(logits=z).log_prob(y),
    ),
    Case(
        "sqdist", (ND, "real[m, d]"), lambda x, y: torch.stack([((r - y) ** 2).sum(1) for r in x])
    ),
    Case("cosine", (ND, ND), F.cosine_similarity),
    Case("clip", (N, "real", "real"), lambda x, lo, hi: torch.min(torch.max(x, lo), hi)),
    Case("detach", (N,), lambda x: x.detach().clone()),
    Case("straight_through", (N, N), lambda hard, soft: hard),
]
