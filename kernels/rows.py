"""Row programs: functions of rows in torch, with the same as instructions for native.c.

    @rows("softmax z", "one_hot y", "sub %1 %2", "mul %3 weights", data=("labels", "column"))
    def residual(z, y, weights):
        return (torch.softmax(z, 1) - one_hot(y, 10)) * weights[:, None]

A line is an operator of INSTRUCTIONS and its operands: z, a parameter by its name, the result of an
earlier line as %1, %2, ..., or a number. The last line is what the function returns. `keep` names
more of them, returned after it: by native.c as tensors of one column, (n,), or like z. The names of
`data` say how operands lie beside z, of shape (n,) or (n, k):

    column  one value per row, (n,) or (n, 1)    labels  the same, int64
    matrix  like z                               row     one value per column of z, (k,) or (1, k)
    scalar  one value                            blocks  (n, k, k), for the operator `blocks` alone

`one_hot` of labels is a matrix with 1 in the column that a label names, 0 elsewhere.
"""

from __future__ import annotations

import ctypes
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Both as in native.c, in the same order.
KINDS = ("product", "column", "matrix", "labels", "scalar", "row", "blocks")
INSTRUCTIONS = (
    "add", "sub", "mul", "div", "pow", "neg", "eq", "ne", "lt", "le", "gt", "ge", "and", "or",
    "not", "where", "maximum", "minimum", "exp", "log", "log1p", "expm1", "sqrt", "abs", "square",
    "sign", "sigmoid", "tanh", "relu", "sin", "cos", "erf", "sum", "amax", "amin", "logsumexp",
    "softmax", "blocks", "one_hot",
)  # fmt: skip
# What gives one column from many.
FOLDS = frozenset({"sum", "amax", "amin", "logsumexp"})
WIDE = frozenset({"product", "matrix", "row"})
MAX_SLOTS = 64


class Instruction(ctypes.Structure):
    """struct instruction of native.c."""

    _fields_ = [(name, ctypes.c_int) for name in ("op", "a", "b", "c", "wide")]


@dataclass(frozen=True)
class Program:
    """Instructions for native.c. Slots: z, the operands from outside, `numbers`, one per line.

    kinds: of the slots from outside. result: the slot of phi, None where only `keep` is wanted.
    keep: slots; wide: whether each of them has the columns of z.
    """

    kinds: tuple[str, ...]
    numbers: tuple[float, ...]
    lines: tuple[tuple[int, int, int, int, int], ...]
    result: int | None
    keep: tuple[int, ...]
    wide: tuple[bool, ...]

    def instructions(self) -> Any:
        """As an array for ctypes."""
        return (Instruction * max(1, len(self.lines)))(*(Instruction(*x) for x in self.lines))


class Rows:
    """A function of rows. Called, it is the torch one; `program` is the same for native.c.

    spare: passes that are not in use, by the shapes they are made for.
    """

    def __init__(self, function: Callable[..., Any], program: Program) -> None:
        self.function, self.program = function, program
        self.name = function.__name__
        self.keeps = len(program.keep)
        self.spare: dict[Any, list[Any]] = {}

    def __call__(self, *operands: Any) -> Any:
        return self.function(*operands)


def rows(
    *lines: str, data: Sequence[str] = (), result: str | None = "last", keep: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Rows]:
    """Give a torch function of (z, *data) its instructions. result: as an operand; the last line,
    or z without any, if not said.
    """

    def decorate(function: Callable[..., Any]) -> Rows:
        names = list(inspect.signature(function).parameters)
        return Rows(function, parse(lines, names, data, result, keep))

    return decorate


def parse(
    lines: Sequence[str],
    names: Sequence[str],
    data: Sequence[str],
    result: str | None = "last",
    keep: Sequence[str] = (),
) -> Program:
    """Lines to slots. names: of z and the operands. Raises ValueError for a line without sense."""
    if len(names) != len(data) + 1:
        raise ValueError(f"rows: {len(names) - 1} operands beside {names[0]}, {len(data)} kinds")
    if unknown := [k for k in data if k not in KINDS[1:]]:
        raise ValueError(f"rows: no kind {unknown[0]!r}; kinds: {', '.join(KINDS[1:])}")
    split = [line.split() for line in lines]
    literals = dict.fromkeys(w for words in split for w in words[1:] if _number(w) is not None)
    slots = {name: i for i, name in enumerate([*names, *literals])}
    kinds = ["product", *data, *("scalar" for _ in literals)]
    wide = [kind in WIDE for kind in kinds]

    def slot(word: str) -> int:
        if word.startswith("%") and 0 < int(word[1:]) <= len(wide) - len(kinds):
            return len(kinds) + int(word[1:]) - 1
        if word not in slots:
            raise ValueError(f"rows: no operand {word!r}")
        return slots[word]

    program = []
    for op, *words in split:
        if op not in INSTRUCTIONS:
            raise ValueError(f"rows: no instruction {op!r}")
        used = [slot(w) for w in words]
        wide.append(op in ("blocks", "one_hot") or (op not in FOLDS and any(wide[i] for i in used)))
        a, b, c = (used + used[:1] * 3)[:3]
        program.append((INSTRUCTIONS.index(op), a, b, c, int(wide[-1])))
    if len(wide) > MAX_SLOTS:
        raise ValueError(f"rows: {len(wide)} slots; at most {MAX_SLOTS}")
    if result == "last":
        result = f"%{len(program)}" if program else names[0]
    kept = tuple(slot(w) for w in keep)
    return Program(
        tuple(kinds), tuple(float(w) for w in literals), tuple(program),
        None if result is None else slot(result), kept, tuple(wide[i] for i in kept),
    )  # fmt: skip


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
