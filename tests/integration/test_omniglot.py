"""The loader of Omniglot, on a zip file of the published form with a few drawings, the loops in
plain torch that the figures compare with, and the script that keeps the figures.
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

import bettyc

Image = pytest.importorskip("PIL.Image")
EXAMPLES = Path(__file__).parents[2] / "examples"
CHARACTERS = {"Greek": 5, "Latin": 5, "Korean": 6}
DRAWINGS = 4


@pytest.fixture
def omniglot(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import omniglot

    yield omniglot
    del sys.modules["omniglot"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Drawing d of character c has a square of ink in row c and column d + 1 of 6 x 6, and a dot in
    two corners of these, d to the right and 2 d down of the corner of a 105 x 105 page.
    """
    found = tmp_path / "images_background_small1.zip"
    with zipfile.ZipFile(found, "w") as archive:
        archive.writestr("images_background_small1/", "")
        for alphabet, characters in CHARACTERS.items():
            for c in range(characters):
                folder = f"images_background_small1/{alphabet}/character{c + 1:02}/"
                archive.writestr(folder, "")
                for d in range(DRAWINGS):
                    page = Image.new("1", (105, 105), 1)
                    left, top = d + 15 * (d + 1), 2 * d + 15 * c
                    page.paste(0, (left, top, left + 15, top + 15))
                    for corner in (0, 89):
                        page.putpixel((d + corner, 2 * d + corner), 0)
                    held = io.BytesIO()
                    page.save(held, "png")
                    archive.writestr(f"{folder}{700 + c:04}_{d + 1:02}.png", held.getvalue())
    return found


def test_drawings_by_alphabet_and_character(omniglot: Any, path: Path) -> None:
    found = omniglot.read(path, size=20)

    assert {name: tuple(part.shape) for name, part in found.items()} == {
        name: (count, DRAWINGS, 1, 20, 20) for name, count in CHARACTERS.items()
    }
    for c in range(5):
        for d in range(DRAWINGS):
            # 90 x 90 pixels in a frame of 100: five by five become one, the first is margin
            page = torch.zeros(20, 20)
            page[3 * c + 1 : 3 * c + 4, 3 * d + 4 : 3 * d + 7] = 1.0  # ink is 1
            page[1, 1] = page[18, 18] = 1 / 25
            torch.testing.assert_close(found["Latin"][c, d, 0], page, rtol=0, atol=1 / 255)


def test_tasks_hold_a_character_per_way_and_no_drawing_twice(omniglot: Any, path: Path) -> None:
    tasks = omniglot.omniglot(str(path), "Latin", False, ways=5, shots=1, queries=3, count=7)
    task = tasks[3]

    assert len(tasks) == 7
    assert task["support"]["x"].shape == (5, 1, 28, 28)
    assert task["support"]["y"].tolist() == [0, 1, 2, 3, 4]
    assert task["query"]["y"].tolist() == [w for w in range(5) for _ in range(3)]
    drawings = torch.cat([task["support"]["x"], task["query"]["x"]]).flatten(1)
    assert len(drawings.unique(dim=0)) == 20
    # the row of most ink tells the character: a query lies in the row of its label's drawing
    row = task["support"]["x"].sum(3).argmax(2).flatten()
    assert torch.equal(task["query"]["x"].sum(3).argmax(2).flatten(), row.repeat_interleave(3))
    assert torch.equal(task["query"]["x"], tasks[3]["query"]["x"])


def test_training_turns_characters_and_leaves_the_held_out_alphabet_alone(
    omniglot: Any, path: Path
) -> None:
    tasks = omniglot.omniglot(str(path), "Latin", True, ways=5, shots=1, queries=1, count=1)

    assert len(tasks.characters) == 4 * (CHARACTERS["Greek"] + CHARACTERS["Korean"])
    with pytest.raises(ValueError, match="no alphabet Hindi"):
        omniglot.omniglot(str(path), "Hindi", True, ways=5, shots=1, queries=1, count=1)


def test_the_program_runs_on_the_file(path: Path) -> None:
    given = {"drawings": f'"{path}"', "run.steps": 1, "adapt.steps": 1}
    run = bettyc.load(EXAMPLES / "maml_omniglot.mlo", set=given).compile().start()

    assert 0.0 <= run.step().metrics["acc"] <= 1.0


@pytest.mark.parametrize(("ways", "shots"), [(5, 3), (6, 1)])
def test_the_program_takes_more_drawings_and_more_characters(ways: int, shots: int) -> None:
    sizes = {"W": ways, "shots": shots, "queries": 1}
    run = bettyc.load(EXAMPLES / "maml_omniglot.mlo", profile="smoke", set=sizes).compile().start()
    run.step()
    task = run.tasks["adapt"].tasks[0]

    assert task["support.x"].shape == (ways * shots, 1, 28, 28)
    assert run["meta"].values()["net.14.bias"].shape == (ways,)


@pytest.fixture
def figures(omniglot: Any) -> Any:
    yield importlib.import_module("omniglot_figures")
    for name in ("omniglot_figures", "omniglot_loop", "omniglot_table"):
        del sys.modules[name]


@pytest.fixture
def given(tmp_path: Path) -> argparse.Namespace:
    """Drawings of noise, whose gradients are far from 0."""
    draw = torch.Generator().manual_seed(0)
    found = tmp_path / "noise.zip"
    with zipfile.ZipFile(found, "w") as archive:
        for name in (f"{a}/{c}/{d}.png" for a in "AB" for c in range(5) for d in range(4)):
            page = torch.randint(2, (28, 28), generator=draw) * 255
            held = io.BytesIO()
            Image.fromarray(page.to(torch.uint8).numpy()).save(held, "png")
            archive.writestr(f"noise/{name}", held.getvalue())
    return asked(str(found), "B")


def asked(path: str, held_out: str) -> argparse.Namespace:
    return argparse.Namespace(path=path, held_out=held_out, steps=2, seed=0, characters=5, shots=1)


@pytest.mark.parametrize("way", ["maml", "first_order", "imaml"])
def test_the_loop_in_plain_torch_finds_the_start_that_bettyc_finds(
    figures: Any, given: argparse.Namespace, way: str
) -> None:
    if way == "imaml":  # on noise its systems have negative curvature, and are not left to cg
        given = asked("generated", "alphabet0")
    ours, theirs = (
        [{name: value.clone() for name, value in start.items()} for start in find(given, way)]
        for find in (figures.trained, figures.looped)
    )
    before = figures.start_of(figures.program(given, way))

    assert len(ours) == len(theirs) == 2
    for name in ours[0]:
        if name in ("0.bias", "3.bias", "6.bias", "9.bias"):
            continue  # the normalisation after them takes them out: their gradients are rounding
        first = (ours[0][name] - theirs[0][name]).abs()
        # Adam makes steps of rounding where a gradient is near 0
        assert (first > 1e-5).float().mean() < 1e-3, name
        # from the second update on, rounding decides on which side of 0 a ReLU is
        moved = (theirs[1][name] - before[name]).norm()
        assert moved > 1e-3
        assert (ours[1][name] - theirs[1][name]).norm() < 0.1 * moved, name


@pytest.mark.parametrize("way", ["maml", "first_order", "imaml"])
def test_figures_are_judged_after_the_adaptation_of_the_program(
    figures: Any, given: argparse.Namespace, way: str
) -> None:
    run = figures.program(given, way)
    start = {name: w.requires_grad_() for name, w in figures.start_of(run).items()}
    run.step()
    rows = run.tasks["adapt"].rows.tolist()
    found = run["adapt"].values()

    train = figures.omniglot(given.path, given.held_out, True, 5, 1, 3, 100000)
    for k in (0, 3):
        w = sys.modules["omniglot_loop"].adapted(start, train[rows[k]], figures.SETTINGS[way])
        for name, value in w.items():
            torch.testing.assert_close(found[f"net.{name}"][k], value.detach(), rtol=0, atol=1e-5)


@pytest.fixture
def table(figures: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With nothing kept, and a README of its own."""
    found = sys.modules["omniglot_table"]
    (tmp_path / "README.md").write_text(f"before\n{found.BEGIN}\n{found.END}\nafter\n")
    monkeypatch.setattr(found, "README", tmp_path / "README.md")
    monkeypatch.setattr(found, "KEPT", tmp_path / "kept")
    return found


def test_what_is_kept_is_not_run_again(
    figures: Any, table: Any, given: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = [given.path, "nearest", "first_order", "--held-out", "all", "--tasks", "2"]
    monkeypatch.setattr(sys, "argv", ["omniglot_figures.py", *line, "--minutes", "0"])
    figures.main()
    found = table.kept("first_order", "B")[0]

    assert (found["steps"], found["tasks"]) == (1, 2)  # stopped by the clock, judged all the same
    assert 0.0 <= found["acc"] <= 1.0
    text = table.README.read_text()
    assert text.startswith("before")
    assert text.endswith("after\n")
    assert [line.split()[1] for line in text.splitlines()[4:7]] == ["A", "B", "mean"]

    def refuse(*_: object) -> None:
        raise AssertionError("run again")

    monkeypatch.setattr(figures, "measured", refuse)
    figures.main()


def test_updates_are_timed_in_turn_after_three_that_are_not_counted(
    figures: Any, given: argparse.Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, order = [0.0], []

    def worked(name: str, first: float, later: float) -> Any:
        def run(*_: object) -> Any:
            for k in range(10):
                clock[0] += first if k < 3 else later
                order.append(name)
                yield {}

        return run

    monkeypatch.setattr(figures.time, "process_time", lambda: clock[0])
    monkeypatch.setattr(figures, "trained", worked("bettyc", 100.0, 2.0))
    monkeypatch.setattr(figures, "looped", worked("loop", 50.0, 3.0))
    given.time = 4

    assert figures.timed(given, "maml") == (2.0, 3.0)
    assert order == ["bettyc", "loop"] * 7


def keep(table: Any, name: str, alphabet: str, accs: list[float], size: str = "5x1") -> None:
    """A run per seed, of 10 and 20 seconds in turn."""
    table.KEPT.mkdir(exist_ok=True)
    for seed, acc in enumerate(accs):
        run = {"acc": acc, "error": 0.005, "steps": 500, "seconds": 10.0 + 10.0 * seed}
        table.place(name, alphabet, seed, size).write_text(json.dumps(run))


def test_tables_take_means_over_seeds(table: Any) -> None:
    keep(table, "maml", "A", [0.80, 0.90])
    keep(table, "maml", "B", [0.70])
    keep(table, "maml_loop", "A", [0.81])
    keep(table, "imaml", "A", [0.11], "20x1")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.accuracies().splitlines()
    ]

    assert rows[0][1:4] == ["pixels", "MAML", "its loop"]
    assert rows[2][:5] == ["A", "", "85.0 ± 0.5 (2)", "81.0 ± 0.5", ""]
    assert rows[3][:4] == ["B", "", "70.0 ± 0.5", ""]
    assert rows[4][:4] == ["mean", "", "77.5", ""]  # of alphabets; a column with a gap has none
    assert rows[5][:4] == ["updates", "", "500", "500"]
    assert rows[6][:4] == ["CPU seconds", "", "13", "10"]


def test_differences_are_of_runs_with_the_same_seed(table: Any) -> None:
    keep(table, "maml", "A", [0.80, 0.90])
    keep(table, "maml_loop", "A", [0.81, 0.88])
    keep(table, "maml", "B", [0.70, 0.99])
    keep(table, "maml_loop", "B", [0.68])
    head, _, line, *others = table.differences().splitlines()

    assert head == "| above the loop | A | B | mean | pairs |"
    # -1, +2 and +2 points: mean 1, standard deviation 3^0.5, standard error 1
    assert line == "| MAML | +0.5 | +2.0 | +1.0 ± 1.0 | 3 |"
    assert others[1] == "| iMAML |  |  |  | 0 |"


def test_tasks_of_other_sizes_have_a_table_of_their_own(table: Any) -> None:
    assert table.others() == ""
    keep(table, "maml", "A", [0.95], "5x5")
    keep(table, "imaml_loop", "A", [0.75, 0.77], "20x1")
    *_, few, many = table.others().splitlines()

    assert few == "| A, 5 characters, 5 drawings each |  | 95.0 ± 0.5, 500 updates |  |  |  |  |  |"
    assert many == f"| A, 20 characters, 1 drawing each |{'  |' * 6} 76.0 ± 0.5 (2), 500 updates |"
    assert all(not cell.strip() for cell in table.accuracies().splitlines()[2].split("|")[2:-1])
