"""Where whole runs end up: the gap to the best upper value, by updates of the top level.

python benchmarks/study/runs.py             write the trajectories into study.json and study.md
python benchmarks/study/runs.py --short     a tenth of the updates, printed

Logistic regression with a penalty per coordinate, and softmax regression with a weight per row.
Values are those of the nested problem: the upper objective with the lower level solved anew by
Newton's method for the upper variables that the run has come to. The best is what gradient descent
along exact hypergradients reaches in many updates, the start is where all begin.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from programs import CLEANING, LOGISTIC, classes

import bettyc

HERE = Path(__file__).parent
PENALTY = "penalty(weight = 100, steps = 5)"
STRATEGIES = {
    # strategy -> (inner steps, upper learning rate relative to the program's)
    "exact": (0, 1.0),
    "single_loop": (1, 1.0),
    "single_loop(rule = ma_soba, average = 0.3)": (1, 1.0),
    PENALTY: (5, 1.0),
    "penalty(rule = bome, steps = 5)": (1, 1.0),
}
UPPER = {"logistic": 2.0, "hyper_cleaning": 50.0}  # learning rates of plain gradient descent
LOWER = {"logistic": 1.0, "hyper_cleaning": 2.0}
TEXTS = {"logistic": LOGISTIC, "hyper_cleaning": CLEANING}
DATA = {"logistic": (200, 10, 2), "hyper_cleaning": (200, 8, 5)}
# Share of the gap that may be left after 1000 updates: what the tests and the study state.
SUBOPTIMAL = 0.05


def text_of(problem: str, strategy: str) -> str:
    """The program under a strategy; `exact` solves the lower level at every update."""
    steps, factor = STRATEGIES[strategy]
    lower = f"optimizer = sgd(lr = {LOWER[problem]})\n  steps = {steps}" if steps else ""
    hypergrad = strategy if steps else "cg(tol = 1e-10)"
    text = TEXTS[problem].replace("LOWER", lower).replace("HYPERGRAD", hypergrad)
    upper = "minimize mean(bce(val.x @ fit*.w, val.y))"  # a coordinate of no use has no optimum
    text = text.replace(upper, f"{upper} + 0.01 * sumsq(log_wd)")
    for rate in (0.05, 0.1):
        text = text.replace(f"adam(lr = {rate})", f"sgd(lr = {UPPER[problem] * factor})")
    return text


def trajectory(
    problem: str, strategy: str, marks: Sequence[int], judge: Any | None = None
) -> list[float]:
    """Upper values of the nested problem after so many updates; `marks` ascend."""
    data = {"all": classes(*DATA[problem])}
    changes = {"run.precision": "fp64", "run.steps": max(1, *marks)}
    run = bettyc.loads(text_of(problem, strategy), set=changes).compile(data=data).start()
    judge = judge or judge_of(problem)
    found = [value(judge, run)] if 0 in marks else []
    for k, _ in enumerate(run, 1):
        if k in marks:
            found.append(value(judge, run))
    return found


def judge_of(problem: str) -> Any:
    """A run that solves the lower level: for values only."""
    data = {"all": classes(*DATA[problem])}
    text = text_of(problem, "exact")
    return bettyc.loads(text, set={"run.precision": "fp64"}).compile(data=data).start()


def value(judge: Any, run: Any) -> float:
    """The upper objective at the run's upper variables, the lower level solved."""
    judge.state.theta["tune"] = run.state.theta["tune"].clone()
    return float(judge.hypergrad("tune").loss)


def left(problem: str, marks: Sequence[int], best_after: int) -> Mapping[str, list[float]]:
    """By strategy, the share of the gap that is left after each mark."""
    start, best = trajectory(problem, "exact", [0, best_after])
    return {
        strategy: [(v - best) / (start - best) for v in trajectory(problem, strategy, marks)]
        for strategy in STRATEGIES
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--short", action="store_true")
    short = parser.parse_args().short
    torch.set_num_threads(1)
    marks, far = ([1, 10, 30, 100], 300) if short else ([1, 10, 100, 300, 1000], 2000)
    found = {p: {"updates": marks, "left": left(p, marks, far)} for p in TEXTS}
    if short:
        print(json.dumps(found, indent=1))
        return
    from table import written

    path = HERE / "study.json"
    done = json.loads(path.read_text(encoding="utf-8"))
    done["runs"] = found
    path.write_text(json.dumps(done, indent=1) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(written(done), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
