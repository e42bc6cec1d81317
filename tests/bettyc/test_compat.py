"""The schedule and the choices of `compat = "betty"`, against a replay of Betty's counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pytest

import bettyc
from bettyc.plan import Pull, Repeat, Start


@dataclass
class Problem:
    """A problem as betty/problems/problem.py counts it: `step_normal`, and nothing else."""

    name: str
    unroll: int = 1
    accumulate: int = 1
    warmup: int = 0
    count: int = 0
    parents: list[Problem] = field(default_factory=list)
    children: list[Problem] = field(default_factory=list)
    ready: set[str] = field(default_factory=set)

    def step(self, trace: list[str]) -> None:
        if len(self.ready) < len(self.children):
            return
        self.count += 1
        trace.append(self.name)
        if self.count % (self.unroll * self.accumulate) == 0 and self.count > self.warmup:
            for parent in self.parents:
                parent.ready.add(self.name)
                parent.step(trace)
        self.ready.clear()


def engine(problems: Sequence[Problem], edges: Sequence[tuple[str, str]], rounds: int) -> list[str]:
    """The order of the micro-steps of Betty's engine; edges from lower to upper."""
    by_name = {p.name: p for p in problems}
    for lower, upper in edges:
        by_name[lower].parents.append(by_name[upper])
        by_name[upper].children.append(by_name[lower])
    trace: list[str] = []
    for _ in range(rounds):
        for problem in problems:
            if not problem.children:
                problem.step(trace)
    return trace


def flat(program: object) -> Iterator[str]:
    """The levels that a program steps, one by one."""
    for instruction in program:  # type: ignore[attr-defined]
        if isinstance(instruction, Repeat):
            for _ in range(instruction.times):
                yield from flat(instruction.body)
        elif not isinstance(instruction, Start):
            yield instruction.level


def level(name: str, target: str, options: Mapping[str, int]) -> str:
    settings = "".join(f"  {key} = {value}\n" for key, value in options.items() if value)
    return (
        f"level {name} {{\n  var x : real = 0\n  minimize {target}\n"
        f"  optimizer = sgd(lr = 0.1)\n{settings}}}\n"
    )


def program(levels: str, steps: int = 3) -> bettyc.Program:
    return bettyc.loads(f'{levels}run {{ steps = {steps}  compat = "betty" }}\n')


def chain(*options: Mapping[str, int], steps: int = 3) -> bettyc.Program:
    """a under b under c ...; each reads the one above and stars the one below."""
    names = "abcd"[: len(options)]
    text = ""
    for i, (name, option) in enumerate(zip(names, options, strict=True)):
        terms = [f"(x - {names[i + 1]}.x)^2"] if i + 1 < len(names) else ["(x - 1)^2"]
        terms += [f"({names[i - 1]}*.x - 1)^2"] if i else []
        text += level(name, " + ".join(terms), option)
    return program(text, steps)


def codes(found: bettyc.Program) -> list[str]:
    return [d.code for d in found.check().diagnostics]


@pytest.mark.parametrize("warmup", [0, 1, 4, 6, 7])
@pytest.mark.parametrize(("unroll", "accumulate"), [(1, 1), (3, 1), (1, 3), (3, 2)])
def test_two_levels_step_in_the_order_of_betty(unroll: int, accumulate: int, warmup: int) -> None:
    below = {"steps": unroll, "accumulate": accumulate, "warmup": warmup}
    found = list(flat(chain(below, {"accumulate": 2}, steps=5).plan().program))

    problems = [Problem("a", unroll, accumulate, warmup), Problem("b", accumulate=2)]
    assert found == engine(problems, [("a", "b")], found.count("a"))
    assert found.count("b") == 5


@pytest.mark.parametrize("warmup", [0, 5])
def test_three_levels_step_in_the_order_of_betty(warmup: int) -> None:
    made = chain({"steps": 2}, {"steps": 3, "accumulate": 2, "warmup": warmup}, {}, steps=3)
    found = list(flat(made.plan().program))

    problems = [Problem("a", 2), Problem("b", 3, 2, warmup), Problem("c")]
    assert found == engine(problems, [("a", "b"), ("b", "c")], found.count("a"))
    assert codes(made) == []


@pytest.mark.parametrize("paces", [(1, 3), (2, 4), (2, 3), (3, 3)])
def test_levels_side_by_side_step_once_a_round(paces: tuple[int, int]) -> None:
    """The faster one does not wait: it steps on until the slower one calls."""
    text = level("a", "(x - top.x)^2", {"steps": paces[0]})
    text += level("b", "(x - top.x)^2", {"steps": paces[1]})
    text += level("top", "(a*.x - 1)^2 + (b*.x - 1)^2 + x^2", {})
    found = list(flat(program(text).plan().program))

    problems = [Problem("a", paces[0]), Problem("b", paces[1]), Problem("top")]
    expected = engine(problems, [("a", "top"), ("b", "top")], found.count("a"))
    assert between(found, "top") == between(expected, "top")


def between(trace: Sequence[str], mark: str) -> list[list[str]]:
    """What happened between two steps of a level, in any order."""
    pieces: list[list[str]] = [[]]
    for name in trace:
        if name == mark:
            pieces.append([])
        else:
            pieces[-1].append(name)
    return [sorted(piece) for piece in pieces]


def test_a_pace_that_cannot_be_even_is_told() -> None:
    text = level("a", "(x - top.x)^2", {"steps": 2})
    text += level("m", "(x - top.x)^2 + (a*.x - 1)^2", {"steps": 1})
    text += level("b", "(x - top.x)^2", {"steps": 3})
    text += level("top", "(m*.x - 1)^2 + (b*.x - 1)^2", {})

    assert codes(program(text)) == ["MLO0619"]


def test_adjoints_follow_every_star_and_values_of_the_root_only() -> None:
    """fit's solution moves with reg, and reg's value is read there: Betty walks reg -> fit."""
    text = level("fit", "(x - reg.x)^2 + (x - top.x)^2", {})
    text += level("reg", "(fit*.x - 1)^2 + (x - top.x)^2", {})
    text += level("top", "(reg*.x - 1)^2 + (fit*.x - 1)^2", {})
    plan = program(text).plan()

    assert plan.sweep("top") == (Pull("reg", ("fit", "top")), Pull("fit", ("top",)))
    assert plan.sweep("reg") == (Pull("fit", ("reg",)),)
    assert {plan.level(name).total for name in plan.order} == {"direct"}
    assert plan.compat == "betty"
    assert codes(program(text)) == ["MLO0619"]  # two ways from top to fit: two differences in Betty


@pytest.mark.parametrize(
    "setting",
    [
        "hypergrad = exact",
        "hypergrad = cg(iters = 3, warm = true)",
        "curvature = total",
        "stop = grad_norm < 1e-3",
    ],
)
def test_what_differs_is_told_where_it_is_written(setting: str) -> None:
    text = level("fit", "(x - top.x)^2", {}).replace("}\n", f"  {setting}\n}}\n")
    text += level("top", "(fit*.x - 1)^2", {})
    found = program(text).check().diagnostics

    assert [d.code for d in found] == ["MLO0619"]
    assert found[0].span is not None
    assert text[found[0].span.start :].startswith(setting.partition("= ")[2])


@pytest.mark.parametrize(
    ("optimizer", "setting"),
    [
        ("rmsprop(lr = 0.1)", "hypergrad = sama"),
        ("adam(lr = 0.1)", 'hypergrad = sama  groups = [group("x", lr = 0.2)]'),
        ("adam(lr = 0.1)", "start = reset"),
        ("sgd(lr = 0.1, momentum = 0.9)", "start = reset"),
    ],
)
def test_what_differs_by_the_optimizer_is_told(optimizer: str, setting: str) -> None:
    text = level("fit", "(x - top.x)^2", {}).replace("}\n", f"  {setting}\n}}\n")
    text = text.replace("sgd(lr = 0.1)", optimizer) + level("top", "(fit*.x - 1)^2", {})

    assert codes(program(text)) == ["MLO0619"]


def test_betty_refuses_a_solve_above_others() -> None:
    found = chain({}, {"steps": 2}, {})
    assert codes(found) == []

    text = level("a", "(x - b.x)^2", {})
    text += level("b", "(x - c.x)^2 + (a*.x - 1)^2", {}).replace("}\n", "  hypergrad = cg\n}\n")
    text += level("c", "(b*.x - 1)^2", {})
    assert codes(program(text)) == ["MLO0619"]


def test_a_library_that_is_not_known_is_an_error() -> None:
    for value in ('"bety"', "betty", "3"):
        found = bettyc.loads(f"run {{ compat = {value} }}").check().diagnostics
        assert "MLO0603" in [d.code for d in found]


@pytest.mark.parametrize(
    ("setting", "meant"),
    [
        ("unroll_steps = 3", "steps"),
        ("gradient_accumulation = 2", "accumulate"),
        ("hypergrad = darts", "finite_diff"),
        ("hypergrad = cg(cg_iterations = 2)", "iters"),
    ],
)
def test_names_of_betty_are_understood(setting: str, meant: str) -> None:
    text = level("a", "(x - top.x)^2", {}).replace("}\n", f"  {setting}\n}}\n")
    found = program(text + level("top", "(a*.x - 1)^2", {})).check().diagnostics

    assert [s.message for s in found[0].suggestions] == [f"did you mean `{meant}`?"]
