"""Initial values of variables: `= zeros`, `= gaussian(std = 0.01)`. The runtime draws them.

A number, a list of numbers, or a parameter of the program is an initial value as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from bettyc.ops.row import Parameter, constant


@dataclass(frozen=True)
class Initial:
    """A named initial value."""

    name: str
    parameters: tuple[Parameter, ...]
    doc: str
    random: bool = False


def _given(name: str) -> Parameter:
    return Parameter(name, operand=False)


INITIAL: dict[str, Initial] = {
    row.name: row
    for row in (
        Initial("zeros", (), "All zeros."),
        Initial("ones", (), "All ones."),
        Initial("fill", (_given("value"),), "One value everywhere."),
        Initial("eye", (), "The identity matrix; the variable must be square."),
        Initial(
            "gaussian",
            (constant("std", 1.0), constant("mean", 0.0)),
            "Independent normal entries.",
            random=True,
        ),
        Initial(
            "uniform",
            (_given("low"), _given("high")),
            "Independent entries, uniform between low and high.",
            random=True,
        ),
        Initial(
            "xavier",
            (constant("gain", 1.0),),
            "Uniform in +-gain * sqrt(6 / (fan_in + fan_out)) (Glorot and Bengio 2010).",
            random=True,
        ),
        Initial(
            "kaiming",
            (constant("slope", 0.0),),
            "Normal with std sqrt(2 / ((1 + slope^2) * fan_in)) (He et al. 2015).",
            random=True,
        ),
    )
}
