"""Choices that are measured once: the fastest is taken, remembered, and no result depends on it."""

from __future__ import annotations

import json

import pytest
import torch

from bettyc.kernels import dispatch, native, one_pass, tuning
from bettyc.kernels.rows import rows


@pytest.fixture
def choices(tmp_path, monkeypatch):
    """A file of choices of its own."""
    path = tmp_path / "choices.json"
    monkeypatch.setattr(tuning, "file", lambda: path)
    tuning.forget()
    yield path
    tuning.forget()


def test_the_fastest_is_taken_and_remembered(choices):
    asked = []

    def seconds(candidate):
        asked.append(candidate)
        return {"a": 3.0, "b": 1.0, "c": 2.0}[candidate]

    assert tuning.choose("k", "abc", seconds) == "b"
    assert asked == [*"abc"] * tuning.REPEATS
    tuning.forget()
    assert tuning.choose("k", "abc", seconds) == "b"
    assert len(asked) == 3 * tuning.REPEATS
    assert json.loads(choices.read_text()) == {"k": 1}


def test_the_best_try_of_each_counts(choices):
    times = iter([5.0, 2.0, 1.0] + [2.0, 5.0] * (tuning.REPEATS - 1))
    assert tuning.choose("k", "ab", lambda _: next(times)) == "a"


def test_what_is_faster_by_chance_alone_is_not_taken(choices):
    assert tuning.choose("k", "ab", {"a": 1.0, "b": 0.98}.__getitem__) == "a"
    assert tuning.choose("l", "ab", {"a": 1.0, "b": 0.9}.__getitem__) == "b"


@pytest.mark.parametrize("text", ["", "[1]", '{"k": "x"}', '{"k": 7}', '{"k": -1}'])
def test_a_file_without_sense_is_measured_over(choices, text):
    choices.write_text(text)
    assert tuning.choose("k", "ab", {"a": 2.0, "b": 1.0}.__getitem__) == "b"
    assert json.loads(choices.read_text())["k"] == 1


def test_others_choices_are_kept_and_old_ones_forgotten(choices, monkeypatch):
    monkeypatch.setattr(tuning, "LIMIT", 3)
    tuning.choose("mine", "a", lambda _: 0.0)
    choices.write_text('{"1": 0, "2": 0, "theirs": 4}')
    tuning.choose("again", "a", lambda _: 0.0)
    assert json.loads(choices.read_text()) == {"2": 0, "theirs": 4, "again": 0}


def test_where_nothing_can_be_written_the_process_remembers(monkeypatch, tmp_path):
    asked = []
    for path in (None, tmp_path / "no" / "folder"):
        monkeypatch.setattr(tuning, "file", lambda path=path: path)
        tuning.forget()
        for _ in range(2):
            tuning.choose("k", "a", lambda c: asked.append(c) or 0.0)
    assert len(asked) == 2 * tuning.REPEATS
    tuning.forget()


def test_a_pass_is_tuned_without_changing_a_bit(choices, monkeypatch):
    if native.library() is None:
        pytest.skip(native.reason())
    monkeypatch.setattr(one_pass, "WORTH", 0)
    g = torch.Generator().manual_seed(5)
    x, v = torch.randn(300, 40, generator=g), torch.randn(40, 6, generator=g)

    @rows("softmax z", "neg %1")
    def phi(z):
        return -torch.softmax(z, 1)

    found = []
    with dispatch.use("auto"):
        for block in one_pass.BLOCKS:
            monkeypatch.setattr(tuning, "choose", lambda key, all_, seconds, block=block: block)
            made = one_pass.Pass(x, v, phi)
            assert made._struct.block == block
            found.append(made.at(v))
    assert all(torch.equal(found[0], other) for other in found)
    monkeypatch.undo()
    monkeypatch.setattr(one_pass, "WORTH", 0)
    monkeypatch.setattr(tuning, "file", lambda: choices)
    with dispatch.use("auto"):
        one_pass.Pass(x, v, phi)
    (key,) = json.loads(choices.read_text())
    assert key.startswith("one_pass: rows per block, 300 x 40 x 6 torch.float32 both ways")
