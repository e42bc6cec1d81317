"""The loop: interprets the program of a plan, instruction by instruction.

`position` says where it is: for every nesting the index of the instruction and, inside a repeat,
the number of the round. A run that is resumed begins there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from bettyc.failures import DivergedError, RunError
from bettyc.plan import ENDLESS, Instruction, Repeat, Solve, Start, Step
from bettyc.runtime import loop
from bettyc.runtime.captured import Captured
from bettyc.runtime.stage import Stage

Program = tuple[Instruction, ...]


class Executor:
    """Runs `program` on `stages`.

    moved: called with a level's name after each of its updates. interrupted: asked after each
    update, or row of updates; when it says so, the loop stops where it can be resumed, by raising
    Stopped. averaged: levels of which every update must be seen by `moved`. captured: what is
    recorded in CUDA graphs.
    """

    def __init__(
        self,
        program: Program,
        stages: Mapping[str, Stage],
        moved: Callable[[str], None],
        interrupted: Callable[[], bool],
        averaged: Collection[str] = (),
        captured: Captured | None = None,
    ) -> None:
        self.program = program
        self.averaged = averaged
        self.captured = captured
        self.stages = stages
        self.moved = moved
        self.interrupted = interrupted
        self.position: list[int] = []
        self.step = 0
        self._resume: list[int] = []

    def resume(self, position: list[int], step: int) -> None:
        """Begin at a position that an earlier run was left in; `step` updates of the top level
        are done.
        """
        self._resume = list(position)
        self.step = step

    def run(self) -> Iterator[int]:
        """Execute the program; gives the number of each update of the top level once it is done.

        Those are the rounds of the last repeat of the program; what stands before it goes first.
        """
        main = self._main()
        for j in range(self._take(), len(self.program)):
            instruction = self.program[j]
            self.position = [j]
            if not isinstance(instruction, Repeat):
                self._act(instruction)
                continue
            if j != main:
                self._repeat(instruction)
                self._warmed(instruction)
                continue
            for i in range(self._take(), instruction.times):
                self.position = [j, i]
                self._run(instruction.body)
                self.position = [j, i + 1]
                self.step += 1
                yield self.step - 1

    def _run(self, body: Program) -> bool:
        """Execute a body; True where a level met its `stop`, which ends the repeat that it is the
        last of.
        """
        position = self.position
        depth = len(position)
        position.append(0)
        met = False
        for j in range(self._take(), len(body)):
            position[depth] = j
            instruction = body[j]
            if isinstance(instruction, Repeat):
                self._repeat(instruction)
            else:
                met = self._act(instruction)
                if not met and self.interrupted():
                    position[depth] = j + 1
                    raise Stopped
        position.pop()
        return met

    def _repeat(self, repeat: Repeat) -> None:
        position = self.position
        depth = len(position)
        position.append(0)
        i = self._take()
        while i < repeat.times:
            position[depth] = i
            ahead = self._ahead(repeat, i)
            if not ahead and self._run(repeat.body):
                break
            i += ahead or 1
        else:
            self._exhausted(repeat)
        position.pop()

    def _ahead(self, repeat: Repeat, i: int) -> int:
        """Run rounds that are one update each in a row; gives how many, 0 where they cannot be.

        They end at fixed rounds, so that a run that was resumed groups them in the same way.
        """
        body = repeat.body
        count = min(loop.CHUNK - i % loop.CHUNK, repeat.times - i)
        if self._resume or count < 3 or len(body) != 1 or not isinstance(body[0], Step):
            return 0
        level = body[0].level
        stage = self.stages[level]
        if level in self.averaged:
            return 0
        if self.captured is not None and self.captured.takes(stage):
            self.captured.steps(stage, count)
        elif loop.straight(stage):
            loop.advance(stage, count)
        else:
            return 0
        self.moved(level)
        if self.interrupted():
            self.position[-1] = i + count - 1
            self.position.append(1)
            raise Stopped
        return count

    def _exhausted(self, repeat: Repeat) -> None:
        """A loop that only a `stop` should end has not met it."""
        last = repeat.body[-1]
        if isinstance(last, Step) and repeat.times == ENDLESS:
            raise RunError(
                f"level `{last.level}` did not meet its `stop` in {ENDLESS} updates;"
                " raise its learning rate, loosen `stop` or set `steps`"
            )

    def _take(self) -> int:
        return self._resume.pop(0) if self._resume else 0

    def _act(self, instruction: Instruction) -> bool:
        """One instruction; True where the level's `stop` was met."""
        assert not isinstance(instruction, Repeat)
        stage = self.stages[instruction.level]
        met = False
        try:
            if isinstance(instruction, Step):
                if self.captured is not None and self.captured.takes(stage):
                    self.captured.steps(stage, 1)
                else:
                    met = not stage.step()
            elif isinstance(instruction, Solve):
                stage.solve()
            elif isinstance(instruction, Start):
                stage.start()
                return False
        except DivergedError as error:
            if error.step >= 0:
                raise
            inner = len(stage.losses) - 1
            raise DivergedError(error.level, self.step, inner, error.cause) from error
        self.moved(instruction.level)
        return met

    def _main(self) -> int:
        """Where the rounds of the program are; warm-ups stand before them."""
        return max((j for j, i in enumerate(self.program) if isinstance(i, Repeat)), default=-1)

    def respond(self, level: str) -> None:
        """Bring the levels below to their responses: what the program does before the level's own
        update, warm-ups included where it has not begun.
        """
        body, index = _enclosing(self.program, level)
        if not self.position and not self._resume:
            self.warm_up(self.program[: max(self._main(), 0)])
        self.perform(body[:index])

    def warm_up(self, program: Program) -> None:
        """Execute what goes before the first round."""
        for instruction in program:
            self.perform((instruction,))
            self._warmed(instruction)

    def _warmed(self, instruction: Instruction) -> None:
        """What levels did in a warm-up is no part of the steps that a strategy goes through: those
        are `steps`, the first time as every other time.
        """
        if isinstance(instruction, Repeat):
            for inner in instruction.body:
                self._warmed(inner)
        else:
            self.stages[instruction.level].stale = True

    def perform(self, body: Program) -> None:
        """Execute instructions apart from the program's own course, whose place is kept."""
        kept = self.position, self._resume, self.interrupted
        self.position, self._resume, self.interrupted = [], [], lambda: False
        try:
            self._run(body)
        finally:
            self.position, self._resume, self.interrupted = kept


class Stopped(Exception):
    """The loop was asked to stop and stands where it can be resumed."""


def _enclosing(program: Program, level: str) -> tuple[Program, int]:
    """The innermost body that updates the level, and where. Raises KeyError without one."""
    for j, instruction in enumerate(program):
        if isinstance(instruction, Step | Solve) and instruction.level == level:
            return program, j
        if isinstance(instruction, Repeat):
            try:
                return _enclosing(instruction.body, level)
            except KeyError:
                continue
    raise KeyError(level)
