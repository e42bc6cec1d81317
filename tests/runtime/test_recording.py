"""Recorded functions, and the stand-in for CUDA graphs that they are proved with."""

from __future__ import annotations

import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from emulated_graphs import Emulated, NotPermitted

from bettyc.runtime.graphs import CHECKED, FUTILE, KEPT, Arguments, Graphs, Work
from bettyc.runtime.randomness import masks

CPU = torch.device("cpu")
DATA = torch.arange(6.0, dtype=torch.float64).reshape(2, 3)


def scaled(given):
    """scale * data @ v, twice: by an operator that writes, too."""
    found = given["data"] @ given["v"]
    found.mul_(given["scalars"][0])
    return Work({"found": found, "twice": found.view(-1) * 2}, "host")


def arguments(v, scale=1.0, data=DATA):
    made = Arguments({"v": v}, {"data": data}, [scale], key=["scaled"])
    return lambda given: scaled({**given, "data": data}), made


def check(graphs, v, scale=1.0, data=DATA):
    function, given = arguments(v, scale, data)
    work = graphs.call("scaled", function, given)
    torch.testing.assert_close(work.tensors["found"], scale * (data @ v))
    torch.testing.assert_close(work.tensors["twice"], 2 * scale * (data @ v))
    assert work.host == "host"
    return work


def vector(k):
    return torch.tensor([1.0, k, -k], dtype=torch.float64)


def test_every_call_sees_its_own_arguments():
    graphs = Graphs(Emulated(CPU))
    works = [check(graphs, vector(k), 1.0 + k) for k in range(6)]
    assert graphs.launches == {"scaled": 5}
    assert len(graphs.engine.recordings) == 1
    for k, work in enumerate(works):  # no launch writes into what was given out
        torch.testing.assert_close(work.tensors["found"], (1.0 + k) * (DATA @ vector(k)))


def test_constants_are_read_where_they_lie_and_guarded_by_address():
    graphs, data = Graphs(Emulated(CPU)), DATA.clone()
    for k in range(4):
        check(graphs, vector(k), data=data)
        data += 1
    assert len(graphs.engine.recordings) == 1
    for k in range(4):
        check(graphs, vector(k), data=data.clone())  # an address of its own every time
    for other in (data[:1], data.T.contiguous().T):
        for k in range(3):
            check(graphs, vector(k), data=other)
    assert len(graphs.engine.recordings) == 3
    assert graphs.refused == {}


class Forgetful(Emulated):
    """As CUDA: what it records holds addresses, and no tensor."""

    def record(self, function, draws):
        _, made = super().record(function, draws)
        self.recordings.clear()
        copies = {name: x.clone() for name, x in made.tensors.items()}
        return SimpleNamespace(launch=lambda seeds: None), Work(copies, made.host)


def test_memory_of_constants_is_kept_while_a_graph_reads_it():
    """Else its address could be that of another tensor, for which the graph would be taken."""
    graphs, data = Graphs(Forgetful(CPU)), DATA.clone()
    held = weakref.ref(data)
    graphs.call("kept", *arguments(vector(1), data=data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bettyc.runtime.graphs.agree", lambda found, expected: True)
        graphs.call("kept", *arguments(vector(1), data=data))
    del data
    assert held() is not None
    graphs.forget("kept")
    assert held() is None


def test_another_shape_or_type_is_recorded_anew():
    graphs = Graphs(Emulated(CPU))

    def call(v):
        work = graphs.call("sum", lambda given: Work({"s": given["v"].sum()}), Arguments({"v": v}))
        torch.testing.assert_close(work.tensors["s"], v.sum())

    for _ in range(3):
        for v in (torch.ones(3), torch.ones(4), torch.ones(4, dtype=torch.float64)):
            call(v)
    assert len(graphs.engine.recordings) == 3
    for size in range(10, 10 + KEPT):  # the oldest are given up
        call(torch.ones(size))
    call(torch.ones(3))
    assert len(graphs.engine.recordings) == 3


def test_a_function_that_never_sees_the_same_twice_is_given_up_in_silence():
    graphs = Graphs(Emulated(CPU))
    for size in range(FUTILE + 1):
        given = Arguments({"v": torch.ones(size)})
        work = graphs.call("sum", lambda g: Work({"s": g["v"].sum()}), given)
        assert float(work.tensors["s"]) == size
    assert graphs.call("sum", lambda g: Work({"s": g["v"].sum()}), given) is None
    assert "another with every call" in graphs.refused["sum"]


class Wrong(Emulated):
    """Its launches forget the argument after `right` of them."""

    right = 0

    def record(self, function, draws):
        tape, made = super().record(function, draws)
        launch, count = tape.launch, iter(range(100))

        def wrong(seeds):
            launch(seeds)
            if next(count) >= self.right:
                made.tensors["found"].add_(1e-3)

        tape.launch = wrong
        return tape, made


@pytest.mark.parametrize("right", range(CHECKED))
def test_a_wrong_launch_is_found_and_not_used(right):
    graphs = Graphs(Wrong(CPU))
    graphs.engine.right = right
    for k in range(1 + right):
        check(graphs, vector(k))
    with pytest.warns(RuntimeWarning, match="MLO0809.*another `found`"):
        check(graphs, vector(1 + right))
    assert graphs.call("scaled", *arguments(vector(1))) is None


def test_rounding_is_not_a_difference():
    class Rounding(Wrong):
        def record(self, function, draws):
            tape, made = Emulated.record(self, function, draws)
            launch = tape.launch
            tape.launch = lambda seeds: (launch(seeds), made.tensors["found"].mul_(1 + 1e-13))
            return tape, made

    graphs = Graphs(Rounding(CPU))
    for k in range(5):
        check(graphs, vector(k))
    assert graphs.refused == {}


def masked(given):
    parts = []
    for seed in (11, 12, 11):
        with masks(seed + masked.base, "cpu"):
            parts.append(torch.rand(3, dtype=torch.float64) * given["v"])
    return Work({"parts": torch.stack(parts)})


def test_masks_follow_the_seeds_of_the_call():
    """Two evaluations under one seed draw the same; the generators of others are left alone."""
    graphs = Graphs(Emulated(CPU))
    for base in range(5):
        masked.base = base
        expected = []
        for seed in (11, 12, 11):
            g = torch.Generator().manual_seed(seed + base)
            expected.append(torch.rand(3, dtype=torch.float64, generator=g) * vector(base))
        before = torch.get_rng_state()
        given = Arguments({"v": vector(base)}, seeds=[11 + base, 12 + base])
        work = graphs.call("masked", masked, given)
        torch.testing.assert_close(work.tensors["parts"], torch.stack(expected))
        assert torch.equal(torch.get_rng_state(), before)
    assert graphs.launches == {"masked": 4}


def _first(x):
    return x[x > 0].sum()


REFUSED = {
    "item": lambda x: x * x.sum().item(),
    "float": lambda x: x * float(x.sum()),
    "bool": lambda x: x if x.sum() > 0 else -x,
    "tolist": lambda x: x * x.tolist()[0],
    "numpy": lambda x: x * x.numpy()[0],
    "cpu": lambda x: x.cpu() * 2,
    "nonzero": lambda x: x.nonzero().sum() + x,
    "mask": _first,
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "to the device": lambda x: x + torch.tensor([1.0] * 3, dtype=torch.float64),
    "number to the device": lambda x: x + torch.as_tensor(1.0, device=x.device),
    "eigh": lambda x: torch.linalg.eigh(torch.outer(x, x)).eigenvalues,
    "cholesky": lambda x: torch.linalg.cholesky(torch.outer(x, x) + torch.eye(3)),
    "unregistered": lambda x: x + torch.rand(3),
    "backward": lambda x: torch.autograd.grad(
        (x.requires_grad_() ** 2).sum() * float(x.detach().sum()), x
    )[0],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cuda_refuses_is_refused(name):
    """And leaves nothing behind but one warning: the function runs plainly."""
    graphs, call = Graphs(Emulated(CPU)), REFUSED[name]

    def function(given):
        return Work({"x": call(given["x"].detach().clone())})

    with pytest.raises(NotPermitted):
        graphs.engine.record(lambda: function({"x": vector(2)}), 0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.manual_seed(0)
        found = [graphs.call("f", function, Arguments({"x": vector(2)})) for _ in range(4)]
    assert [f is None for f in found] == [False, False, True, True]
    assert [str(w.message)[:7] for w in seen] == ["MLO0809"]
    if name != "unregistered":
        torch.testing.assert_close(found[0].tensors["x"], found[1].tensors["x"])


def test_a_recording_computes_nothing():
    """Variables from before are as they were, whatever was written to them; results are there
    after a launch only.
    """
    x = vector(2)

    def function():
        y = x.mul_(2) + 1
        y.unsqueeze_(0)
        return Work({"y": y.exp()})

    tape, made = Emulated(CPU).record(function, 0)
    assert torch.equal(x, vector(2))
    assert made.tensors["y"].isnan().all()
    tape.launch([])
    torch.testing.assert_close(made.tensors["y"], (2 * vector(2) + 1).exp()[None])
    tape.launch([])
    torch.testing.assert_close(made.tensors["y"], (4 * vector(2) + 1).exp()[None])
