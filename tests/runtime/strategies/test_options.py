"""The options that a program may write: one table, checked once."""

import pytest

from bettyc.model import Call
from bettyc.runtime.strategies import PULLS, SOLVES, WHOLE
from bettyc.strategies import CG, STRATEGIES, Auto, Penalty, make, name_of


def test_every_strategy_is_implemented_once():
    names = {name for name, cls in STRATEGIES.items() if cls is not Auto}

    assert set(SOLVES) | set(PULLS) == names
    assert not set(SOLVES) & set(PULLS)
    assert set(PULLS) >= WHOLE


def test_a_call_becomes_its_options():
    assert make(Call("cg", (5,), (("damping", 0.1),))) == CG(iters=5, damping=0.1)
    assert name_of(Penalty()) == "penalty"
    assert {name_of(make(Call(name))) for name in STRATEGIES} == set(STRATEGIES)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (Call("cgg"), "no strategy `cgg`"),
        (Call("cg", (), (("iter", 3),)), "iters, tol, damping"),
        (Call("one_step", (1,)), "no options"),
        (Call("cg", (), (("precond", "jacobi"),)), "none, diagonal, nystrom, optimizer"),
        (Call("penalty", (), (("rule", "pbgd"),)), "f2sa, bome"),
        (Call("single_loop", ("saba",)), "soba, ma_soba"),
    ],
)
def test_a_wrong_call_names_what_there_is(call, message):
    with pytest.raises(ValueError, match=message):
        make(call)


def test_every_option_of_words_has_one_of_them_as_default():
    for cls in STRATEGIES.values():
        for name, words in getattr(cls, "words", {}).items():
            assert getattr(cls(), name) in words
