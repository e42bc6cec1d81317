"""A run that is stopped or killed, and resumed, has the bits of one that is not."""

from __future__ import annotations

import pytest
import torch
from toys import classification, start

from bettyc.failures import InputError
from bettyc.runtime import archive
from bettyc.runtime.execute import Stopped

PROGRAM = """
mlo 0.1
dim n, d, C = 2
data all : { x: real[n, d], y: int<C>[n] } from memory()
split all into train = 0.6, val = 0.4 with (seed = 0)
level fit {
  var W : real[d, C] = gaussian(std = 0.1)
  draw b from train(batch = 8, shuffle = true)
  let loss = dropout(xent(b.x @ W, b.y), p = 0.2)
  minimize mean(sigmoid(tune.score[b.index]) * loss) + 0.01 * sumsq(W)
  SETTINGS
}
level tune {
  var score : real[36] = zeros
  draw v from val(batch = 7, shuffle = true)
  minimize mean(xent(v.x @ fit*.W, v.y))
  optimizer = adam(lr = 0.1)
}
run { steps = 6 }
"""
VARIANTS = {
    "sgd, cg": "optimizer = sgd(lr = 0.5, momentum = 0.9)  steps = 5 "
    " hypergrad = cg(iters = 3, damping = 0.1, warm = true)",
    "adam, unroll, warm": "optimizer = adam(lr = 0.1)  steps = 5  hypergrad = unroll",
    "rmsprop, truncated": "optimizer = rmsprop(lr = 0.1, momentum = 0.5)  steps = 5 "
    " hypergrad = unroll(truncate = 2)",
    "accumulate, reset": "optimizer = adam(lr = 0.1)  steps = 3  accumulate = 3 "
    " start = reset  hypergrad = unroll",
    "schedule": "optimizer = sgd(lr = 0.5)  steps = 4  lr_schedule = cosine "
    " clip = 0.1  hypergrad = finite_diff(eps = 0.01)",
    "betty": "optimizer = adam(lr = 0.1)  steps = 2  accumulate = 2  warmup = 5  clip = 0.1"
    "  hypergrad = sama(eps = 1.0)",
}


def program(variant: str) -> str:
    text = PROGRAM.replace("SETTINGS", VARIANTS[variant])
    return text.replace("6 }", '6  compat = "betty" }') if variant == "betty" else text


def told(output) -> tuple:
    return output.step, dict(output.loss), dict(output.grad_norm), output.reports


def bits(run) -> list[torch.Tensor]:
    return [run["fit"].W, run["tune"].score]


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_between_periods(variant, tmp_path):
    data = {"all": classification()}
    whole = start(program(variant), data)
    whole.to_end()
    first = start(program(variant), data)
    for _ in range(3):
        first.step()
    first.save(tmp_path / "c.safetensors")
    second = start(program(variant), data)
    second.load(tmp_path / "c.safetensors")
    rest = list(second)

    assert [out.step for out in rest] == [3, 4, 5]
    assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(second), strict=True))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("after", [1, 4, 7, 11, 12, 17])
def test_resumed_inside_a_period(variant, after, tmp_path):
    """Stopped after any number of updates, the upper level's included: the same bits, and the same
    losses, norms and reports from the update on in which it stopped.
    """
    data = {"all": classification()}
    whole = start(program(variant), data)
    expected = [told(out) for out in whole]
    first = start(program(variant), data)
    count = 0

    def stop_now() -> bool:
        nonlocal count
        count += 1
        return count == after

    first.executor.interrupted = stop_now
    with pytest.raises(Stopped):
        first.to_end()
    first.save(tmp_path / "c.safetensors")
    second = start(program(variant), data)
    second.load(tmp_path / "c.safetensors")
    rest = [told(out) for out in second]

    assert rest == expected[-len(rest) :]
    assert rest
    assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(second), strict=True))


def test_a_run_that_was_interrupted_goes_on():
    data = {"all": classification()}
    whole, other = (start(program("sgd, cg"), data) for _ in range(2))
    whole.to_end()
    other.step()
    other.interrupt()
    with pytest.raises(Stopped):
        other.step()
    other.to_end()

    assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(other), strict=True))


def test_a_checkpoint_of_another_program_is_refused_with_a_diff(tmp_path):
    data = {"all": classification()}
    start(program("sgd, cg"), data).save(tmp_path / "c.safetensors")
    other = start(program("adam, unroll, warm"), data)
    with pytest.raises(InputError) as raised:
        other.load(tmp_path / "c.safetensors")

    (found,) = raised.value.diagnostics
    assert found.code == "MLO0803"
    assert "sgd" in found.notes[0].text
    assert "adam" in found.notes[0].text


@pytest.mark.parametrize("content", [b"", b"garbage" * 999, b"\x08" + b"\0" * 7 + b"{}      "])
def test_a_damaged_checkpoint_is_refused(content, tmp_path):
    path = tmp_path / "c.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        start(program("sgd, cg"), {"all": classification()}).load(path)

    assert raised.value.diagnostics[0].code == "MLO0506"


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="not found"):
        start(program("sgd, cg"), {"all": classification()}).load(tmp_path / "none")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    archive.write(path, {"x": torch.ones(3)})
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "_flush", full)
    with pytest.raises(OSError, match="No space"):
        archive.write(path, {"x": torch.zeros(3)})

    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_archive_keeps_structure_and_bits(tmp_path):
    shared = torch.arange(6.0)
    tree = {
        "a": [1, 2.5, None, True, "x"],
        ("t", "u"): {
            "view": shared[::2],
            "same": shared,
            "scalar": torch.tensor(3, dtype=torch.int64),
        },
        "empty": torch.zeros(0, 2),
    }
    archive.write(tmp_path / "f", tree)
    found = archive.read(tmp_path / "f", torch.device("cpu"))

    assert found["a"] == tree["a"]
    assert list(found) == list(tree)
    assert torch.equal(found["t", "u"]["view"], shared[::2])
    assert torch.equal(found["t", "u"]["same"], shared)
    assert found["t", "u"]["scalar"].item() == 3
    assert found["empty"].shape == (0, 2)


LONGER = {
    "plain": "optimizer = sgd(lr = 0.5, momentum = 0.9)  steps = 5  hypergrad = cg(iters = 3)",
    "own total": "optimizer = adam(lr = 0.1)  steps = 2  lr_schedule = cosine(total = 30)"
    "  hypergrad = unroll",
}


def longer(variant: str, steps: int) -> str:
    return PROGRAM.replace("SETTINGS", LONGER[variant]).replace("steps = 6", f"steps = {steps}")


@pytest.mark.parametrize("variant", LONGER)
@pytest.mark.parametrize("done", [2, 4])
def test_a_run_goes_on_with_more_updates(variant, done, tmp_path):
    """Also one that had made all that were asked for."""
    data = {"all": classification()}
    whole = start(longer(variant, 6), data)
    outputs = [told(out) for out in whole]
    first = start(longer(variant, 4), data)
    for _ in range(done):
        first.step()
    if done == 4:
        assert first.to_end() is None
    path = first.save(tmp_path / "a.ckpt")
    second = start(longer(variant, 6), data)
    second.load(path)

    assert [told(out) for out in second] == outputs[done:]
    assert all(torch.equal(a, b) for a, b in zip(bits(second), bits(whole), strict=True))


@pytest.mark.parametrize(
    ("settings", "steps", "words"),
    [
        ("steps = 2  lr_schedule = cosine", 8, "goes over the whole run"),
        ("steps = 2  lr_schedule = sequential([warmup(steps = 2), linear], milestones = [2])", 8,
         "goes over the whole run"),
        ("steps = 2", 2, "it has made 3 updates already"),
        ("steps = 3", 8, "= 3"),
    ],
)  # fmt: skip
def test_not_where_updates_that_are_done_would_have_been_others(settings, steps, words, tmp_path):
    def text(inner: str, steps: int) -> str:
        found = PROGRAM.replace("SETTINGS", f"optimizer = adam(lr = 0.1)  {inner}")
        return found.replace("steps = 6", f"steps = {steps}")

    data = {"all": classification()}
    first = start(text(settings.replace("steps = 3", "steps = 2"), 6), data)
    for _ in range(3):
        first.step()
    path = first.save(tmp_path / "a.ckpt")
    with pytest.raises(InputError) as caught:
        start(text(settings, steps), data).load(path)

    (found,) = caught.value.diagnostics
    assert found.code == "MLO0803"
    assert words in str(found.notes)
