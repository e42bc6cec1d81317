"""Quadratic levels on any graph, with the hypergradients of DESIGN.md section 3 in dense linear
algebra.

Level Q has C_Q(z) = 1/2 z.M_Q z + m_Q.z with z all variables side by side. Two answers:
`direct_answer` adds up the paths of the relation, one by one; `nested_answer` solves the nested
problem, each level at the minimum of its objective with the solutions below it substituted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from problems import Formula, Problem, normal, spd
from torch import Tensor

from bettyc.plan import Pull


@dataclass(frozen=True)
class Quadratics:
    """sizes: of each level, lowest level first. stars, values: what each level stars and reads
    bare.
    """

    sizes: Mapping[str, int]
    stars: Mapping[str, tuple[str, ...]]
    values: Mapping[str, tuple[str, ...]]
    matrices: Mapping[str, Tensor]
    vectors: Mapping[str, Tensor]

    @property
    def order(self) -> tuple[str, ...]:
        return tuple(self.sizes)

    def place(self, *levels: str) -> list[int]:
        """The positions of the levels' variables in z."""
        found, start = [], 0
        for name, size in self.sizes.items():
            if name in levels:
                found += range(start, start + size)
            start += size
        return found

    def below(self, root: str) -> tuple[str, ...]:
        """Levels below `root`: starred by it, or reading its value, and so on downwards."""
        under = {
            q: {*self.stars[q], *(r for r in self.order if q in self.values[r])} for q in self.order
        }
        found: set[str] = set()
        stack = [root]
        while stack:
            for name in under[stack.pop()] - found:
                found.add(name)
                stack.append(name)
        return tuple(name for name in self.order if name in found)

    def problem(self, z: Tensor | None = None) -> Problem:
        """The objectives at z, or at the nested solution for random variables of the top level."""
        point = self.solution() if z is None else z
        theta = {name: point[self.place(name)] for name in self.order}
        objectives = {}
        for q in self.order:
            reads = (q, *self.stars[q], *self.values[q])
            objectives[q] = Formula(q, reads, self._function(q, reads))
        return Problem(objectives, theta, self.order)

    def _function(self, q: str, reads: tuple[str, ...]):
        names = [name for name in self.order if name in reads]
        at = self.place(*names)
        m, v = self.matrices[q][at][:, at], self.vectors[q][at]

        def function(theta: Mapping[str, Tensor]) -> Tensor:
            z = torch.cat([theta[name] for name in names])
            return 0.5 * z @ m @ z + v @ z

        return function

    # The nested problem.

    def response(self, root: str) -> tuple[Tensor, Tensor]:
        """T, t with z = T z + t at the solutions below `root`, given everything else."""
        total = sum(self.sizes.values())
        lower = self.below(root)
        unknown = self.place(*lower)
        t_matrix, t_vector = (
            torch.eye(total, dtype=torch.float64),
            torch.zeros(total, dtype=torch.float64),
        )
        if not unknown:
            return t_matrix, t_vector
        rows = [self.stationarity(name) for name in lower]
        a = torch.cat([row for row, _ in rows])
        b = torch.cat([shift for _, shift in rows])
        given = [i for i in range(total) if i not in unknown]
        t_matrix[unknown] = 0
        t_matrix[torch.tensor(unknown)[:, None], torch.tensor(given)] = -torch.linalg.solve(
            a[:, unknown], a[:, given]
        )
        t_vector[unknown] = -torch.linalg.solve(a[:, unknown], b)
        return t_matrix, t_vector

    def stationarity(self, q: str) -> tuple[Tensor, Tensor]:
        """A, b with A z + b the gradient of q's reduced objective in its own variables."""
        t_matrix, t_vector = self.response(q)
        back = t_matrix[:, self.place(q)].T
        m, v = self.matrices[q], self.vectors[q]
        return back @ m @ t_matrix, back @ (m @ t_vector + v)

    def solution(self) -> Tensor:
        """z at the nested solution, the top level's variables drawn at random."""
        z = normal(sum(self.sizes.values()), seed=99)
        t_matrix, t_vector = self.response(self.order[-1])
        return t_matrix @ z + t_vector

    def nested_answer(self, root: str, z: Tensor) -> Tensor:
        """The derivative of root's reduced objective at z."""
        row, shift = self.stationarity(root)
        return row @ z + shift

    # The sum over paths, the starred values held fixed inside every g and H.

    def depends(self, q: str, on: str) -> bool:
        """Whether q's solution depends on the variables of `on`, a level above it."""
        lower = self.below(on)
        seen, stack = set(), [q]
        while stack:
            name = stack.pop()
            if on in self.values[name]:
                return True
            for other in (*self.values[name], *self.stars[name]):
                if other in lower and other not in seen:
                    seen.add(other)
                    stack.append(other)
        return False

    def arrows(self, q: str) -> tuple[str, ...]:
        """q => R of DESIGN.md section 3."""
        return tuple(
            r
            for r in self.order
            if r in self.values[q] or (r in self.stars[q] and not self.depends(r, q))
        )

    def paths(self, start: str, end: str) -> Iterator[tuple[str, ...]]:
        if start == end:
            yield (end,)
            return
        for name in self.arrows(start):
            if name == end or name in self.below(end):
                for rest in self.paths(name, end):
                    yield (start, *rest)

    def direct_answer(self, root: str, z: Tensor) -> Tensor:
        """The direct part plus one term per path from a starred read of `root` back to it."""
        gradient = self.matrices[root] @ z + self.vectors[root]
        answer = gradient[self.place(root)].clone()
        for first in self.stars[root]:
            for path in self.paths(first, root):
                a = gradient[self.place(first)]
                for q, r in pairwise(path):
                    m, own = self.matrices[q], self.place(q)
                    u = torch.linalg.solve(m[own][:, own], a)
                    a = -m[own][:, self.place(r)].T @ u
                answer += a
        return answer

    def pulls(self, root: str) -> tuple[Pull, ...]:
        """The sweep of `root`: every level below it before the levels it points to."""
        lower = self.below(root)
        into = {q: tuple(r for r in self.arrows(q) if r == root or r in lower) for q in lower}
        done: list[str] = []

        def visit(q: str) -> None:
            if q in done or q == root:
                return
            for r in into[q]:
                visit(r)
            done.append(q)

        for q in lower:
            visit(q)
        return tuple(Pull(q, into[q]) for q in reversed(done))


def build(
    sizes: Mapping[str, int],
    stars: Mapping[str, tuple[str, ...]],
    values: Mapping[str, tuple[str, ...]],
    condition: float = 5.0,
    coupling: float = 0.3,
    seed: int = 0,
) -> Quadratics:
    """Random levels: the own block of M has the given condition, the others are scaled by
    `coupling`.
    """
    stars = {q: tuple(stars.get(q, ())) for q in sizes}
    values = {q: tuple(values.get(q, ())) for q in sizes}
    shape = Quadratics(sizes, stars, values, {}, {})
    total = sum(sizes.values())
    matrices, vectors = {}, {}
    for i, q in enumerate(sizes):
        reads = shape.place(q, *stars[q], *values[q])
        own = shape.place(q)
        m = torch.zeros(total, total, dtype=torch.float64)
        noise = coupling * normal(total, total, seed=1000 * seed + 10 * i) / total**0.5
        m[torch.tensor(reads)[:, None], torch.tensor(reads)] = (noise + noise.T)[reads][:, reads]
        if own:
            m[torch.tensor(own)[:, None], torch.tensor(own)] = spd(
                len(own), condition, 1000 * seed + 10 * i + 1
            )
        v = torch.zeros(total, dtype=torch.float64)
        v[reads] = normal(total, seed=1000 * seed + 10 * i + 2)[reads]
        matrices[q], vectors[q] = m, v
    return Quadratics(sizes, stars, values, matrices, vectors)


def chain(depth: int, size: int = 2, seed: int = 0, condition: float = 5.0) -> Quadratics:
    """Levels l1 .. l_depth, each starring the one below and reading the value of the one above."""
    names = [f"l{i}" for i in range(1, depth + 1)]
    return build(
        dict.fromkeys(names, size),
        {q: (p,) for p, q in pairwise(names)},
        {p: (q,) for p, q in pairwise(names)},
        condition,
        seed=seed,
    )


def ladder(k: int, size: int = 2, seed: int = 0) -> Quadratics:
    """k pairs of levels: the top stars the lowest pair, each pair reads both of the next, the last
    the top.
    """
    names = [f"{side}{i}" for i in range(1, k + 1) for side in "ab"]
    values = {
        f"{side}{i}": (f"a{i + 1}", f"b{i + 1}") if i < k else ("top",)
        for i in range(1, k + 1)
        for side in "ab"
    }
    # The coupling is chosen so that the terms of long paths neither vanish nor explode.
    return build(
        {**dict.fromkeys(names, size), "top": size},
        {"top": ("a1", "b1")},
        values,
        coupling=2.0 if k < 10 else 1.0,
        seed=seed,
    )
