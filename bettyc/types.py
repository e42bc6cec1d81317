"""Dims, shapes and types of the language.

A dim is a polynomial over named dims with integer coefficients (`n`, `2*d + 1`, `d*C`), so that two
dims are equal exactly when their normal forms are. Users write linear dims; products arise inside
the compiler (the size of a weight matrix).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

Monomial: TypeAlias = tuple[str, ...]


class Dim(NamedTuple):
    """A sum of `coefficient * monomial`, sorted; the empty monomial is the constant."""

    terms: tuple[tuple[Monomial, int], ...]

    @property
    def value(self) -> int | None:
        """The integer this dim is, or None while it has names."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and self.terms[0][0] == ():
            return self.terms[0][1]
        return None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for monomial, _ in self.terms for name in monomial)

    def bind(self, sizes: Mapping[str, Dim]) -> Dim:
        """Replace the named dims that `sizes` knows."""
        if not any(name in sizes for name in self.names):
            return self
        total = number(0)
        for monomial, coefficient in self.terms:
            product = number(coefficient)
            for name in monomial:
                product = multiply(product, sizes.get(name, symbol(name)))
            total = add(total, product)
        return total

    def __str__(self) -> str:
        parts: list[str] = []
        for monomial, coefficient in sorted(self.terms, key=lambda term: (term[0] == (), term[0])):
            word = "*".join(monomial)
            if not monomial:
                word = str(abs(coefficient))
            elif abs(coefficient) != 1:
                word = f"{abs(coefficient)}*{word}"
            if not parts:
                parts.append(word if coefficient > 0 else f"-{word}")
            else:
                parts.append(f" {'+' if coefficient > 0 else '-'} {word}")
        return "".join(parts) or "0"


def _dim(terms: Mapping[Monomial, int]) -> Dim:
    return Dim(tuple(sorted((m, c) for m, c in terms.items() if c != 0)))


def number(value: int) -> Dim:
    return _dim({(): value})


def symbol(name: str) -> Dim:
    return Dim((((name,), 1),))


def add(a: Dim, b: Dim, sign: int = 1) -> Dim:
    """`a + sign*b`."""
    terms = dict(a.terms)
    for monomial, coefficient in b.terms:
        terms[monomial] = terms.get(monomial, 0) + sign * coefficient
    return _dim(terms)


def multiply(a: Dim, b: Dim) -> Dim:
    terms: dict[Monomial, int] = {}
    for m1, c1 in a.terms:
        for m2, c2 in b.terms:
            key = tuple(sorted(m1 + m2))
            terms[key] = terms.get(key, 0) + c1 * c2
    return _dim(terms)


def product(dims: tuple[Dim, ...]) -> Dim:
    """Number of entries of a shape."""
    total = number(1)
    for dim in dims:
        total = multiply(total, dim)
    return total


Shape: TypeAlias = tuple[Dim, ...]


@dataclass(frozen=True)
class Tensor:
    """`real[n, d]`, `int<C>[n]`, `bool[n]`; a scalar has the empty shape.

    `labels` is the number of classes of an int tensor whose values are 0..labels-1.
    """

    kind: str  # "real" | "int" | "bool"
    shape: Shape = ()
    labels: Dim | None = None

    def __str__(self) -> str:
        labels = f"<{self.labels}>" if self.labels is not None else ""
        dims = f"[{', '.join(map(str, self.shape))}]" if self.shape else ""
        return f"{self.kind}{labels}{dims}"


@dataclass(frozen=True)
class Record:
    """`{ x: real[n, d], y: int<C>[n] }`."""

    fields: tuple[tuple[str, Type], ...]

    def get(self, name: str) -> Type | None:
        return next((t for n, t in self.fields if n == name), None)

    def __str__(self) -> str:
        return "{ " + ", ".join(f"{n}: {t}" for n, t in self.fields) + " }"


@dataclass(frozen=True)
class Module:
    """The type of a network: what it maps to what. Equal inputs and outputs do not make two
    networks alike.
    """

    inputs: tuple[Type, ...]
    output: Type

    def __str__(self) -> str:
        inputs = ", ".join(map(str, self.inputs))
        return (
            f"({inputs}) -> {self.output}"
            if len(self.inputs) != 1
            else f"{inputs} -> {self.output}"
        )


@dataclass(frozen=True)
class Text:
    """A string constant."""

    def __str__(self) -> str:
        return "str"


@dataclass(frozen=True)
class Poison:
    """The type of an expression that already has a diagnostic; silent from then on."""

    def __str__(self) -> str:
        return "?"


Type: TypeAlias = Tensor | Record | Module | Text | Poison
REAL = Tensor("real")
INT = Tensor("int")
BOOL = Tensor("bool")
POISON = Poison()


def bind(type_: Type, sizes: Mapping[str, Dim]) -> Type:
    """The type with named dims replaced."""
    if isinstance(type_, Tensor):
        labels = type_.labels.bind(sizes) if type_.labels is not None else None
        return Tensor(type_.kind, tuple(d.bind(sizes) for d in type_.shape), labels)
    if isinstance(type_, Record):
        return Record(tuple((n, bind(t, sizes)) for n, t in type_.fields))
    if isinstance(type_, Module):
        return Module(tuple(bind(t, sizes) for t in type_.inputs), bind(type_.output, sizes))
    return type_


def tensors(type_: Type, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a type with its dotted field path."""
    if isinstance(type_, Tensor):
        yield path, type_
    elif isinstance(type_, Record):
        for name, field in type_.fields:
            yield from tensors(field, f"{path}.{name}" if path else name)
