"""The hypergradients of every example, on made-up data, are those that plain autograd gives.

`--slow` compares those that Newton's method solves also with the nested problem's own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bettyc
from bettyc.cli.gradcheck import compare

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.mlo"))
# Those whose levels below the top are solved by Newton's method within a minute.
SOLVED = ("dro", "elastic_net", "four_levels", "hpo_of_hpo", "logistic_hpo", "ridge_hpo")
# Those in which no level depends on the solution of another, or only on it as a constant.
SINGLE = ("augmentation_fixed", "darts_retrain", "loss_weights_fixed", "reptile_sinusoid")


def rows_of(path: Path, against: tuple[str, ...], profile: str | None, most: int = 20) -> int:
    """How many comparisons there were; each is right to 1e-4."""
    torch.set_num_threads(1)
    program = bettyc.load(path, profile=profile, set={"run.precision": "fp64"}, mock={})
    run, plain = program.compile().start(), program.compile(opt=0).start()
    count = 0
    for level in run.plan.order:
        if not run.plan.sweep(level):
            continue
        rows, missing = compare(run, level, against, most, plain)
        assert not missing
        for row in rows:
            assert row.relative_error < 1e-4, row
        count += len(rows)
    return count


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_the_compiler_derives_what_plain_autograd_does(path: Path) -> None:
    if any(f'"{name}:' in path.read_text() for name in ("cartpole", "pendulum")):
        pytest.importorskip("gymnasium")
    count = rows_of(path, ("O0",), "smoke")

    assert (count > 0) == (path.stem not in SINGLE)


@pytest.mark.parametrize("name", ["gan", "mixture_gan"])
def test_the_gan_is_right_for_the_nested_problem_of_a_small_critic(name: str) -> None:
    assert rows_of(EXAMPLES[0].parent / f"{name}.mlo", ("differences",), "solved", 1) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVED)
def test_the_plan_is_right_for_the_nested_problem(name: str) -> None:
    assert rows_of(EXAMPLES[0].parent / f"{name}.mlo", ("unroll", "differences"), None) > 0
