"""Meta-Weight-Net with a residual network, bf16, accumulation and a schedule goes on exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import bettyc
from bettyc.runtime.execute import Stopped

PROGRAM = Path(__file__).parents[2] / "examples" / "meta_weight_net_resnet.mlo"


@pytest.mark.parametrize("after", [3, 8])
def test_interrupted_and_resumed_gives_the_bits_of_an_uninterrupted_run(
    after: int, tmp_path: Path
) -> None:
    """Stopped in the middle of the inner steps of the first round and of the second."""
    plan = bettyc.load(PROGRAM, profile="smoke").compile()
    whole, first, second = (plan.start() for _ in range(3))
    whole.to_end()
    count = 0

    def stop_now() -> bool:
        nonlocal count
        count += 1
        return count == after

    first.executor.interrupted = stop_now
    with pytest.raises(Stopped):
        first.to_end()
    first.save(tmp_path / "one.safetensors")
    begin = second["student"]["net"].state_dict()["stem.weight"].clone()
    second.load(tmp_path / "one.safetensors")
    loaded = second["student"]["net"].state_dict()["stem.weight"]
    assert not torch.equal(loaded, begin)
    assert torch.equal(loaded, first["student"]["net"].state_dict()["stem.weight"])
    second.to_end()

    for level, name in (("student", "net"), ("weigher", "v"), ("plain", "net")):
        want, got = (dict(run[level][name].named_parameters()) for run in (whole, second))
        assert want.keys() == got.keys()
        assert all(torch.equal(want[key], got[key]) for key in want)
