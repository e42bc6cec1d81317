"""X^T phi(X V) for any phi: every instruction, shape, layout and kind of operand against torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from bettyc.kernels import dispatch, native
from bettyc.kernels.one_pass import MAX_COLUMNS, PARTS, Pass, one_pass, reference
from bettyc.kernels.rows import FOLDS, INSTRUCTIONS, MAX_SLOTS, rows

BOUND = {torch.float64: 1e-12, torch.float32: 1e-5}

# instruction -> (what torch calls it, the operands beside z)
UNARY = {
    "neg": torch.neg, "not": lambda z: (z == 0).to(z.dtype), "exp": torch.exp,
    "log": lambda z: torch.log(z.abs() + 0.1), "log1p": lambda z: torch.log1p(z.abs()),
    "expm1": torch.expm1, "sqrt": lambda z: torch.sqrt(z.abs()), "abs": torch.abs,
    "square": torch.square, "sign": torch.sign, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
    "relu": torch.relu, "sin": torch.sin, "cos": torch.cos, "erf": torch.erf,
}  # fmt: skip
PREPARED = {
    "log": ("abs z", "add %1 0.1", "log %2"),
    "log1p": ("abs z", "log1p %1"),
    "sqrt": ("abs z", "sqrt %1"),
}
BINARY = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div,
    "pow": lambda z, y: z.abs() ** y, "eq": torch.eq, "ne": torch.ne, "lt": torch.lt,
    "le": torch.le, "gt": torch.gt, "ge": torch.ge, "and": torch.logical_and,
    "or": torch.logical_or, "maximum": torch.maximum, "minimum": torch.minimum,
}  # fmt: skip


@pytest.fixture(params=[torch.float64, torch.float32], ids=["f64", "f32"])
def dtype(request):
    return request.param


@pytest.fixture
def only_native():
    if native.library() is None:
        pytest.skip(native.reason())
    with dispatch.use("auto"):
        yield


def test_every_instruction_is_tested():
    assert {*UNARY, *BINARY, *FOLDS, "where", "softmax", "blocks", "one_hot"} == {*INSTRUCTIONS}


def compare(close, draw, dtype, function, *lines, data=(), kinds=(), n=70, d=9, k=3):
    """phi kept beside the product, so that an error in a single row shows."""
    x, v = draw(n, d).to(dtype), draw(d, *((k,) if k else ())).to(dtype)
    data = [t.to(dtype) if t.is_floating_point() else t for t in data]
    last = f"%{len(lines)}"
    made = rows(*lines, data=kinds, keep=(last,))(_named(function, len(data)))
    got, phi = one_pass(x, v, made, *data)
    wide = [t.double() if t.is_floating_point() else t for t in data]
    want = function(x.double() @ v.double(), *wide).double()
    close(phi, want, BOUND[dtype])
    close(got, x.double().T @ want, 20 * BOUND[dtype])


def _named(function, count):
    """With the parameters that `rows` reads, and phi twice: as the result and as what is kept."""
    names = ", ".join(["z", *(f"d{i + 1}" for i in range(count))])
    scope = {"function": lambda z, *data: function(z, *data).to(z.dtype)}
    exec(f"def rows({names}):\n    s = function({names})\n    return s, s", scope)
    return scope["rows"]


@pytest.mark.parametrize("op", UNARY)
def test_functions_of_one_entry(only_native, close, draw, dtype, op):
    compare(close, draw, dtype, UNARY[op], *PREPARED.get(op, (f"{op} z",)))


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("kind", ["matrix", "column", "row", "scalar"])
def test_functions_of_two_entries(only_native, close, draw, dtype, op, kind):
    shape = {"matrix": (70, 3), "column": (70, 1), "row": (3,), "scalar": ()}[kind]
    other = draw(1, *shape)[0]
    other = other.round() if op in ("eq", "ne", "and", "or") else other
    other = other.abs() if op == "pow" else other  # or small z decide about all of it
    lines = ("abs z", "pow %1 d1") if op == "pow" else (f"{op} z d1",)
    compare(close, draw, dtype, BINARY[op], *lines, data=[other], kinds=(kind,))


def test_functions_of_a_row(only_native, close, draw, dtype):
    def lift(fold):
        return lambda z, w: fold(z)[:, None] * w

    w = draw(70, 3)
    folds = {
        "sum": lambda z: z.sum(1), "amax": lambda z: z.amax(1), "amin": lambda z: z.amin(1),
        "logsumexp": lambda z: torch.logsumexp(z, 1),
    }  # fmt: skip
    assert folds.keys() == FOLDS
    for op, fold in folds.items():
        compare(close, draw, dtype, lift(fold), f"{op} z", "mul %1 d1", data=[w], kinds=("matrix",))
    compare(close, draw, dtype, lambda z: torch.softmax(z, 1), "softmax z")
    blocks = draw(70, 3, 3)
    compare(
        close, draw, dtype, lambda z, a: torch.einsum("nij,nj->ni", a, z), "blocks z d1",
        data=[blocks], kinds=("blocks",),
    )  # fmt: skip


def test_where_labels_and_numbers(only_native, close, draw, dtype):
    labels = torch.arange(70) % 3
    compare(
        close, draw, dtype, lambda z, y: torch.where(z > 0.5, y[:, None] * z, -1.5),
        "gt z 0.5", "mul d1 z", "where %1 %2 -1.5", data=[labels], kinds=("labels",),
    )  # fmt: skip
    compare(
        close, draw, dtype, lambda z, y: torch.softmax(z, 1) - torch.nn.functional.one_hot(y, 3),
        "softmax z", "one_hot d1", "sub %1 %2", data=[labels], kinds=("labels",),
    )  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e4, -1e4])
@pytest.mark.parametrize("op", [*UNARY, "maximum", "minimum", "softmax", "amax", "logsumexp"])
def test_special_values(only_native, dtype, op, value):
    """As torch: what is not finite stays what it is, and nothing else becomes it."""
    x = torch.full((5, 1), 1.0, dtype=dtype)
    v = torch.tensor([[value, 0.5]], dtype=dtype)
    y = torch.tensor([0.25, 0.25], dtype=dtype)
    z = x @ v
    line, kinds, data = f"{op} z", (), []
    if op in ("maximum", "minimum"):
        line, kinds, data, want = f"{op} z d1", ("row",), [y], BINARY[op](z, y)
    elif op == "softmax":
        want = torch.softmax(z, 1)
    elif op in FOLDS:
        want = z.amax(1) if op == "amax" else torch.logsumexp(z, 1)
    else:
        plain = {"log": torch.log, "log1p": torch.log1p, "sqrt": torch.sqrt}
        want = plain.get(op, UNARY[op])(z)
    if op == "sign" and value != value:
        want = torch.sign(z)
    made = rows(line, data=kinds, result=None, keep=("%1",))(_named(lambda z, *d: z, len(data)))
    got = one_pass(x, v, made, *data)
    assert torch.allclose(got, want, rtol=1e-6, atol=2e-38, equal_nan=True), (got, want)


SHAPES = [(0, 3, 2), (1, 1, 1), (3, 4, 2), (7, 5, 3), (33, 17, 1), (65, 33, 10), (31, 64, 17),
          (9, 70, 5), (300, 19, 4), (130, 16, 6), (70, 1, 128), (29, 40, 7), (38, 23, 8),
          (70, 50, 9), (66, 900, 10), (21, 48, 11), (40, 17, 26), (2100, 300, 8)]  # fmt: skip


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_layouts(only_native, close, draw, guard, dtype, shape, turned):
    n, d, k = shape
    x, v, w, y = (draw(*s).to(dtype) for s in ((n, d), (d, k), (n,), (n, k)))
    ridge = draw(d, k).to(dtype)
    v, ridge = (v.T.contiguous(), ridge.T.contiguous()) if turned else (v, ridge)

    @rows("softmax z", "sub %1 y", "mul %2 w", data=("matrix", "column"))
    def phi(z, y, w):
        return (torch.softmax(z, 1) - y) * w[:, None]

    operands = [t.double() for t in (x, v, y, w)]
    want = reference(operands[0], operands[1], phi, operands[2:], 0.3, 0.1, ridge.double(), turned)
    got = one_pass(
        guard(x), guard(v), phi, guard(y), guard(w), scale=0.3, shift=0.1, ridge=guard(ridge),
        turned=turned,
    )  # fmt: skip
    close(got, want, 30 * BOUND[dtype])
    one = one_pass(x, v, phi, y, w, ridge=torch.tensor(0.7, dtype=dtype), turned=turned)
    first = one_pass(x, v, phi, y, w, turned=turned)
    close(one - first, 0.7 * v.double(), 100 * BOUND[dtype])


@pytest.mark.parametrize("n", [0, 1, 8, 63, 129, 1000])
def test_vectors(only_native, close, draw, guard, dtype, n):
    for d in (1, 7, 16, 45):
        x, v, y = draw(n, d).to(dtype), draw(d).to(dtype), draw(n).to(dtype)

        @rows("sigmoid z", "sub %1 y", data=("matrix",), keep=("z",))
        def phi(z, y):
            return torch.sigmoid(z) - y, z

        got, z = one_pass(guard(x), guard(v), phi, guard(y))
        want, kept = reference(x.double(), v.double(), phi, [y.double()])
        close(got, want, 20 * BOUND[dtype])
        close(z, kept, BOUND[dtype])


def test_the_product_alone(only_native, close, draw):
    """Without a result X is read once, for X V."""
    x, v = draw(200, 33), draw(33, 4)

    @rows(result=None, keep=("z",))
    def product(z):
        return z

    @rows("sum z", "mul %1 2.0", result=None, keep=("%2", "z"))
    def sums(z):
        return 2 * z.sum(1), z

    for mode in ("auto", "torch"):
        with dispatch.use(mode):
            close(one_pass(x, v, product), x @ v, 1e-13)
            twice, same = one_pass(x, v, sums)
            close(twice, 2 * (x @ v).sum(1), 1e-13)
            close(same, x @ v, 1e-13)


def test_threads_and_callers_change_nothing(only_native, draw):
    x, vs = draw(9000, 41).float(), [draw(41, 3).float() for _ in range(6)]

    @rows("softmax z")
    def phi(z):
        return torch.softmax(z, 1)

    want = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found = [one_pass(x, v, phi) for v in vs]
        want = want or found
        assert all(map(torch.equal, want, found))
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, want, pool.map(lambda v: one_pass(x, v, phi), vs)))


def test_a_part_is_one_sum_whatever_lies_beside_it(only_native, draw):
    """The tiles of rows and columns are no part of the result: each column alone has its bits."""
    x, v = draw(PARTS * 70, 37).float(), draw(37, 7).float()

    @rows()
    def same(z):
        return z

    whole = one_pass(x, v, same)
    for c in range(7):
        alone = Pass(x, v[:, c : c + 1].contiguous(), same)
        alone._struct.parts = Pass(x, v, same)._struct.parts
        assert torch.equal(alone.at(v[:, c : c + 1].contiguous())[:, 0], whole[:, c])


def test_many_steps_in_one_call(only_native, close, draw, dtype):
    x, y, w = draw(300, 12).to(dtype), draw(300).to(dtype), draw(12).to(dtype)

    @rows("sub z y", data=("matrix",))
    def residual(z, y):
        return z - y

    slope = Pass(x, w, residual, [y], scale=1 / 300, shift=0.1)
    moved, stepped = w.clone(), w.clone()
    slope.descend(moved, 0.05, 20)
    for _ in range(20):
        stepped -= 0.05 * slope.at(stepped)
    close(moved, stepped.double(), BOUND[dtype])
    assert not torch.equal(moved, w)


def test_what_native_code_cannot_take_is_computed_by_torch(draw, close):
    @rows("mul z w", data=("matrix",))
    def phi(z, w):
        return z * w

    x, v, w = draw(20, 6), draw(6), draw(20)
    want = x.T @ (w * (x @ v))
    close(one_pass(x.T.contiguous().T, v, phi, w), want, 1e-13)
    wide = draw(6, MAX_COLUMNS + 1)
    close(one_pass(x, wide, phi, w[:, None]), x.T @ (w[:, None] * (x @ wide)), 1e-13)
    half = one_pass(x.bfloat16(), v.bfloat16(), phi, w.bfloat16())
    assert half.dtype == torch.bfloat16
    with dispatch.use("torch"):
        close(one_pass(x, v, phi, w), want, 1e-13)


@pytest.mark.parametrize(
    ("lines", "data", "words"),
    [
        (["mul z w"], ["nothing"], "no kind 'nothing'"),
        (["twice z"], ["matrix"], "no instruction 'twice'"),
        (["mul z u"], ["matrix"], "no operand 'u'"),
        (["mul z %1"], ["matrix"], "no operand '%1'"),
        (["neg z"], [], "1 operands beside z, 0 kinds"),
        (["neg z"] * MAX_SLOTS, ["matrix"], "at most 64"),
    ],
)
def test_programs_without_sense(lines, data, words):
    with pytest.raises(ValueError, match=words):
        rows(*lines, data=data)(lambda z, w: z)


def test_data_of_the_wrong_size(only_native, draw):
    @rows("mul z w", data=("column",))
    def phi(z, w):
        return z * w[:, None]

    with pytest.raises(ValueError, match="a column beside 20 rows of 3 columns has 20 elements"):
        one_pass(draw(20, 6), draw(6, 3), phi, draw(19))
