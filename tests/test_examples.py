"""Every example checks without a warning, and its smoke profile runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import bettyc

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.mlo"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_smoke_profile_runs(path: Path) -> None:
    if '"cartpole:' in path.read_text():
        pytest.importorskip("gymnasium")
    program = bettyc.load(path, profile="smoke", set={"run.eval": "every(1)"})

    assert program.check().diagnostics == ()
    outputs = list(program.compile().start())

    assert program.checked.model is not None
    assert len(outputs) == program.checked.model.setting("steps")
    assert all(
        math.isfinite(v) for out in outputs for v in (*out.loss.values(), *out.metrics.values())
    )


def test_the_table_names_every_metric_of_every_program() -> None:
    table = (EXAMPLES[0].parent / "README.md").read_text()

    for path in EXAMPLES:
        model = bettyc.load(path).checked.model
        assert model is not None
        for metric in model.metrics:
            assert f"| {path.stem} | {metric.name} |" in table


def test_hyper_cleaning_separates_clean_from_corrupted_labels() -> None:
    path = EXAMPLES[0].parent / "hyper_cleaning.mlo"
    run = bettyc.load(path, set={"run.steps": 15, "run.eval": "every(15)"}).compile().start()

    *_, last = run

    assert last.metrics["test_acc"] > last.metrics["test_acc_plain"] + 0.1
    assert last.metrics["auc"] > 0.85
