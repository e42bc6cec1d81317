"""Run the examples and print the table of examples/README.md.

    python examples/figures.py              all of them
    python examples/figures.py ridge_hpo    some

Each program runs as it stands, from its own seed; "before" is after the first update of the top
level.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import bettyc

HERE = Path(__file__).parent


def figures(path: Path) -> tuple[dict[str, float], dict[str, float], float]:
    """The metrics after the first and the last update, and the seconds it took."""
    begin = time.perf_counter()
    run = bettyc.load(path, set={"run.eval": "every(1)"}).compile().start()
    outputs = list(run)
    return dict(outputs[0].metrics), dict(outputs[-1].metrics), time.perf_counter() - begin


def main(names: list[str]) -> None:
    print("| program | metric | before | after |")
    print("|---|---|---|---|")
    for path in sorted(HERE.glob("*.mlo")):
        if names and path.stem not in names:
            continue
        before, after, seconds = figures(path)
        for metric in after:
            print(f"| {path.stem} | {metric} | {before[metric]:.4f} | {after[metric]:.4f} |")
        print(f"{path.stem}: {seconds:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
