"""MLO09: programs that run, and could say what they mean better."""

from bettyc.diagnostics.codes.row import Code

CODES = (
    Code("MLO0901", "unused-declaration", "pedantic", "unused `{kind} {name}`"),
    Code(
        "MLO0902",
        "exp-instead-of-domain",
        "pedantic",
        "`exp` of the unconstrained upper variable `{variable}`",
    ),
    Code(
        "MLO0903",
        "upper-rate-too-large",
        "pedantic",
        "learning rate {upper_rate} of `{upper}` is more than 100 times"
        " the {lower_rate} of `{lower}` below it",
    ),
    Code(
        "MLO0904",
        "far-from-stationary",
        "pedantic",
        "`{level}` takes {steps} and is differentiated by `{strategy}`, which assumes it is solved",
    ),
    Code("MLO0905", "no-held-out-metric", "pedantic", "no metric uses held-out data"),
    Code("MLO0906", "unused-allow", "pedantic", "`allow({allowed})` suppresses nothing"),
    Code("MLO0907", "repeated-constant", "pedantic", "constant `{value}` appears {count} times"),
)
