"""`bettyc check` has to answer at once: what it imports, and how long that takes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "logistic_hpo.mlo"
TEMPLATE = ROOT / "bettyc" / "cli" / "templates" / "hpo.mlo"
# Values are read only where `--data` asks for it; scikit-learn brings the others along.
READING = {"numpy", "scipy", "sklearn", "rich"}
HEAVY = ("torch", "networkx", "numpy", "rich", "lark", "sklearn", "scipy", "safetensors", "triton")


def imported_by(*arguments: str) -> set[str]:
    """The heavy packages that a command imports, in a fresh process."""
    program = (
        "import sys; from bettyc.cli.main import run; code = run(sys.argv[1:]);"
        f"print('IMPORTED', code, *(m for m in {HEAVY!r} if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    words = done.stdout.splitlines()[-1].split()
    assert words[:2] == ["IMPORTED", "0"], done.stderr
    return set(words[2:])


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (["check", str(EXAMPLE)], set()),
        (["check", "--pedantic", "--mock", "n=64,d=10", str(EXAMPLE)], set()),
        (["check", "--data", 'all=sklearn("breast_cancer")', str(EXAMPLE)], READING),
        (["graph", "--why", "fit:tune", str(EXAMPLE)], set()),
        (["graph", str(EXAMPLE)], {"networkx"}),
        (["plan", "--why", str(EXAMPLE)], set()),
        (["info", "--json", str(EXAMPLE)], set()),
        (["fmt", "--check", str(TEMPLATE)], set()),
        (["explain", "MLO0319"], set()),
        (["list", "functions"], set()),
        (["version", "--json"], set()),
        (["--help"], set()),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_verb_imports_no_more_than_it_needs(arguments: list[str], allowed: set[str]) -> None:
    assert imported_by(*arguments) <= allowed


def test_check_is_fast_when_cold() -> None:
    """At most 12 starts of Python itself, which is 0.25 s where that takes 0.02 s; measured: 8."""

    def seconds(*command: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return time.perf_counter() - began

    subprocess.run([sys.executable, "-m", "bettyc", "check", str(EXAMPLE)], check=True)
    command = ("-m", "bettyc", "check", str(EXAMPLE))
    rounds = [(seconds("-c", "pass"), seconds(*command)) for _ in range(5)]
    nothing, check = median(a for a, _ in rounds), median(b for _, b in rounds)

    assert check < max(0.25, 12 * nothing)
