"""The page for people who know Betty: its counts, its Betty programs, its table of all of Betty."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields

import pytest
import torch
from markdown_pages import DOCS, blocks
from torch import nn

PAGE = DOCS / "coming-from-betty.md"
TEXT = PAGE.read_text(encoding="utf-8")
PAIRS = [b for b in blocks(PAGE) if b.language in ("py", "mlo")]
THEIRS = [b for b in PAIRS if b.language == "py"]


def lines(text: str) -> int:
    return sum(1 for line in text.splitlines() if line.strip() and line.strip()[0] != "#")


def test_lines_are_counted():
    rows = re.findall(r"^\| \[[^|]*\| (\d+) \| (\d+) \|$", TEXT, re.MULTILINE)
    found = [lines(b.text) for b in PAIRS[: 2 * len(rows)]]

    assert [(int(a), int(b)) for a, b in rows] == list(zip(found[::2], found[1::2], strict=True))
    assert len(rows) == len(THEIRS) == 5


class Cells(nn.Module):
    def __init__(self):
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(2, 3))

    def forward(self):
        return tuple(self.alpha.softmax(-1))


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = pixels(10)

    def forward(self, x, cell, reduction):
        return self.net(x) * (cell[0] + reduction[1])


def pixels(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(12, classes))


def loader(*shape, classes=10):
    g = torch.Generator().manual_seed(len(shape))
    return [(torch.randn(8, *shape, generator=g), torch.arange(8) % classes) for _ in range(3)]


def given():
    """The networks and loaders that the programs take from elsewhere, as small as can be."""
    images = loader(3, 2, 2)
    points = [(x, y.float()) for x, y in loader(30, classes=2)]
    return {
        "ResNet32": lambda: pixels(10),
        "Conv4": lambda: pixels(10),
        "Backbone": pixels,
        "Supernet": Mixed,
        "Architecture": Cells,
        "WeightNet": lambda: nn.Sequential(nn.Linear(1, 1), nn.Sigmoid()),
        "task_loader": [{"train": images[0], "test": images[1]}] * 9,
        **dict.fromkeys(("meta_loader", "source_loader", "tune_loader", "test_loader"), images),
        "points": points,
        "images": images,
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("place", range(5))
def test_the_programs_of_betty_run(place, monkeypatch):
    betty = pytest.importorskip("betty.engine")
    whole = betty.Engine.run

    def short(engine):
        engine.train_iters, engine.valid_step = 101 if place == 0 else 13, 5
        whole(engine)

    monkeypatch.setattr(betty.Engine, "run", short)
    names = given()
    names["train_loader"] = names["val_loader"] = names["points" if place == 0 else "images"]
    text = THEIRS[place].text.replace("16", "2")  # tasks and steps of iMAML
    exec(compile(text, str(PAGE), "exec"), names)

    top = names["engine"].problems[0]
    assert len(top.optimizer.state) == len(list(top.module.parameters()))
    assert all(torch.isfinite(p).all() for p in top.module.parameters())


def named():
    """Every name between backticks in the table."""
    table = TEXT[TEXT.index("## What replaces what") :]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("|")]
    return {name for cell in first for name in re.findall(r"`(\w+)`", cell)}


@pytest.mark.filterwarnings("ignore")
def test_the_table_has_all_of_betty():
    pytest.importorskip("betty")
    from betty import engine, logging, optim, problems
    from betty.configs import Config, EngineConfig
    from betty.envs import Env
    from betty.hypergradient import jvp_fn_mapping
    from betty.misc.early_stopping import EarlyStopping
    from betty.patch import data_loader
    from betty.problems.problem import Problem

    wanted = {Env.__name__, EarlyStopping.__name__, *jvp_fn_mapping}
    for config in (Config, EngineConfig):
        wanted |= {config.__name__, *(f.name for f in fields(config))}
    for module in (engine, logging, optim, problems, data_loader):
        wanted |= {
            n for n, v in vars(module).items() if inspect.isclass(v) and "betty" in v.__module__
        }
    for cls in (Problem, problems.ImplicitProblem, engine.Engine, Env):
        wanted |= {n for n in vars(cls) if not n.startswith("_")}
        wanted |= set(re.findall(r'is_implemented\("(\w+)"\)', inspect.getsource(cls)))
    wanted |= set(inspect.signature(Problem.__init__).parameters) - {"self"}

    assert sorted(wanted - named()) == []
