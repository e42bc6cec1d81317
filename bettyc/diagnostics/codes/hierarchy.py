"""MLO03: who is above whom, and gradients that do not arrive where they should."""

from bettyc.diagnostics.codes.row import Code

CODES = (
    Code("MLO0301", "cyclic-hierarchy", "error", "cyclic hierarchy: {chain}"),
    Code("MLO0302", "own-star", "error", "level `{level}` stars itself"),
    Code("MLO0303", "no-objective", "error", "level `{level}` has no objective"),
    Code("MLO0304", "several-objectives", "error", "level `{level}` has {count} objectives"),
    Code(
        "MLO0305",
        "undecided-order",
        "error",
        "`{first}` and `{second}` read each other and share the lower level `{lower}`",
    ),
    Code("MLO0306", "no-variables", "error", "level `{level}` has no variables to optimize"),
    Code(
        "MLO0307",
        "let-reads-upward-response",
        "error",
        "`let {name}` in level `{level}` reads the response of `{upper}`, a level above it",
    ),
    Code("MLO0309", "no-level", "error", "program `{name}` has no level"),
    Code(
        "MLO0310",
        "own-variables-unused",
        "error",
        "objective of `{level}` does not depend on its own variables",
    ),
    Code(
        "MLO0311",
        "gradient-never-arrives",
        "error",
        "gradient never reaches `{level}`: no level below it reads {variables}",
    ),
    Code(
        "MLO0312",
        "gradient-detached",
        "error",
        "the only path from `{level}` to its objective is cut by `detach`",
    ),
    Code(
        "MLO0313",
        "gradient-through-sampling",
        "error",
        "the only path from `{level}` to its objective goes through sampling from `{source}`",
    ),
    Code(
        "MLO0314",
        "gradient-through-step",
        "error",
        "the only path from `{level}` to its objective is cut by `{function}`,"
        " which has no useful derivative",
    ),
    Code(
        "MLO0315",
        "gradient-into-integer",
        "error",
        "the only path from `{level}` to its objective takes `{name}` as an integer",
    ),
    Code(
        "MLO0316",
        "gradient-through-nondiff",
        "error",
        "the only path from `{level}` to its objective goes through argument `{argument}`"
        " of `{function}`, declared `nondiff`",
    ),
    Code(
        "MLO0317",
        "variable-without-influence",
        "warning",
        "variable `{level}.{name}` does not influence any objective",
    ),
    Code(
        "MLO0318",
        "level-never-read",
        "warning",
        "level `{level}` is never read by another level",
    ),
    Code(
        "MLO0319",
        "undirected-read",
        "error",
        "`{read}` is read by `{reader}`, but nothing says `{level}` is above `{reader}`",
    ),
    Code("MLO0320", "star-in-metric", "error", "starred read `{read}` in a metric"),
    Code(
        "MLO0321",
        "cross-derivative-vanishes",
        "error",
        "objective of `{lower}` reads `{read}`, but its solution does not depend on it",
    ),
    Code(
        "MLO0322",
        "unbounded-objective",
        "warning",
        "objective of `{level}` has no lower bound in `{name}`",
    ),
    Code(
        "MLO0323",
        "wrong-sense",
        "error",
        "`{sense}` of a {curvature} quadratic has no finite solution",
    ),
)
