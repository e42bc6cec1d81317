"""What each level's objective sees besides variables: its frame, renewed when its batches are.

A draw belongs to the highest level that uses it. A level that steps asks for the next frame:
draws that their owner has used up are drawn anew, the others stay. So a shared batch is the same
for a whole period, and everything between two steps of a level, its solves included, sees one and
the same frame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from bettyc.expr import Graph
from bettyc.model import Draw
from bettyc.runtime.data.draw import Batches, Sampler
from bettyc.runtime.data.rows import Columns, Tasks
from bettyc.runtime.objective import Frame
from bettyc.runtime.seeds import seed_of

# Columns, and columns of the tasks of `foreach` levels, as in `Frame`.
Given = tuple[Mapping[tuple[str, str], Tensor], dict[str, tuple[Mapping[str, Tensor], ...]]]


class TaskBatch:
    """The tasks that the replicas of a `foreach` level work on; one batch per update of the level
    above.
    """

    def __init__(self, level: str, draw: Draw, source: Tasks, size: int, seed: int) -> None:
        self.level = level
        self.source = source
        self.size = size
        self.sampler = Sampler(f"{level}.{draw.name}", source, size, seed, dict(draw.options))
        self.spent = True
        self.watched = False
        self.rows: Tensor | None = None
        self.tasks: tuple[Columns, ...] = ()

    @property
    def ready(self) -> bool:
        return bool(self.tasks)

    def advance(self) -> None:
        self.take(self.sampler.next())
        self.spent = False

    @property
    def epoch(self) -> int:
        return self.sampler.epoch

    def take(self, rows: Tensor) -> None:
        """Make these the current tasks. What a source of tasks draws at random follows from the
        place of the sampler.
        """
        self.rows = rows
        place = (self.sampler.epoch, self.sampler.position)
        chosen = rows.tolist()
        seeds = [
            seed_of(self.sampler.seed, "task", self.level, *place, k) for k in range(len(chosen))
        ]
        self.tasks = self.source.fetch(chosen, seeds)

    def hold(self) -> tuple[Any, ...]:
        """What changes, for `put`."""
        return self.sampler.epoch, self.sampler.position, self.spent, self.rows, self.tasks

    def put(self, held: tuple[Any, ...]) -> None:
        epoch, position, self.spent, self.rows, self.tasks = held
        self.sampler.seek(epoch, position)

    def state(self) -> dict[str, Any]:
        found = {
            "epoch": self.sampler.epoch,
            "position": self.sampler.position,
            "spent": self.spent,
        }
        return found if self.rows is None else {**found, "rows": self.rows}

    def restore(self, state: dict[str, Any]) -> None:
        self.sampler.seek(int(state["epoch"]), int(state["position"]))
        self.spent = bool(state["spent"])
        if "rows" in state:
            self.take(state["rows"].cpu())


class Feed:
    """The frames of one level.

    columns: fixed columns that the objective reads. draws, tasks: what it reads that is drawn.
    buffers: the run's module buffers, or None where the objective reads none. seeded: whether it
    draws random masks.
    """

    def __init__(
        self,
        level: str,
        columns: Mapping[tuple[str, str], Tensor],
        draws: Sequence[Batches],
        tasks: Sequence[TaskBatch],
        buffers: Callable[[], Mapping[str, Mapping[str, Tensor]]] | None,
        seed: Callable[[], int] | None,
    ) -> None:
        self.level = level
        self.columns = columns
        self.draws = tuple(draws)
        self.tasks = tuple(tasks)
        self._buffers = buffers
        self._seed = seed
        self.fixed = not (draws or tasks or buffers or seed)
        self.frame: Frame | None = None
        self._given: Given = ({}, {})
        self._kept: frozenset[str] = frozenset()  # the names of what is given

    def give(self, given: Given) -> None:
        """Let these stand in place of what is loaded and drawn, until others are given."""
        self._given = given
        self._kept = frozenset((*(name for name, _ in given[0]), *given[1]))
        self.frame = None

    def next(self) -> Frame:
        """The frame of the level's next gradient."""
        if self.frame is not None and self.fixed:
            return self.frame
        self._advance(lambda source: source.spent)
        self.frame = self._build()
        return self.frame

    def current(self) -> Frame:
        """The frame of the level's last gradient; the first one where there was none."""
        return self.next() if self.frame is None else self.frame

    def renewed(self) -> Frame:
        """The current batches with the buffers as they are now."""
        if self.frame is None:
            return self.next()
        if not self.fixed:
            self.frame = self._build()
        return self.frame

    def peek(self) -> Frame:
        """The batches as they are, drawn where there are none yet, and where nobody else draws
        them; for metrics.
        """
        self._advance(lambda source: not source.ready or (source.watched and source.spent))
        return self._build()

    def _advance(self, due: Callable[[Batches | TaskBatch], bool]) -> None:
        """Draw anew what is due and not given."""
        for draw in self.draws:
            if due(draw) and draw.draw.name not in self._kept:
                draw.advance()
        for task in self.tasks:
            if due(task) and task.level not in self._kept:
                task.advance()

    def _build(self) -> Frame:
        columns = dict(self.columns)
        for draw in self.draws:
            columns |= draw.columns
        return Frame(
            {**columns, **self._given[0]},
            {task.level: task.tasks for task in self.tasks} | self._given[1],
            seed=self._seed() if self._seed is not None else 0,
            buffers={} if self._buffers is None else dict(self._buffers()),
        )


def leaves(graph: Graph, roots: Sequence[int]) -> dict[str, list[tuple[str, str]]]:
    """What formulas read: `data` as (name, field), `batch` as (draw, field), `task` as (level,
    field), `owned` as (level, variable or network).
    """
    found: dict[str, list[tuple[str, str]]] = {"data": [], "batch": [], "task": [], "owned": []}
    for index in graph.reachable(roots):
        node = graph[index]
        named = dict(node.attrs)
        if node.op in ("var", "module"):
            found["owned"].append((named["level"], named["name"]))
        elif node.op in ("data", "batch", "task"):
            owner = named.get("data") or named.get("draw") or named["level"]
            found[node.op].append((owner, named.get("field") or ""))
    return found


def mask_seed(seed: int, level: str, count: int) -> int:
    """Of the random masks in a level's gradient number `count`."""
    return seed_of(seed, "masks", level, count)
