"""MLO06: settings, optimizers and ways to differentiate through a level."""

from bettyc.diagnostics.codes.row import Code

CODES = (
    Code("MLO0601", "unknown-setting", "error", "unknown setting `{name}` in {block}"),
    Code("MLO0602", "unknown-choice", "error", "unknown {kind} `{name}`"),
    Code(
        "MLO0603", "value-out-of-range", "error", "`{setting}` is {value}, but must be {expected}"
    ),
    Code(
        "MLO0604",
        "unroll-needs-differentiable-optimizer",
        "error",
        "`{strategy}` needs a differentiable optimizer; `{optimizer}` is not",
    ),
    Code(
        "MLO0605",
        "not-known-convex",
        "error",
        "`{strategy}` needs a positive semidefinite Hessian; `{level}` {reason}",
    ),
    Code(
        "MLO0606",
        "exact-needs-quadratic",
        "error",
        "`exact` needs a quadratic objective; `{level}` is {curvature}",
    ),
    Code(
        "MLO0607",
        "danskin-needs-zero-sum",
        "error",
        "`danskin` needs opposite objectives; those of `{lower}` and `{upper}` differ",
    ),
    Code(
        "MLO0608",
        "unroll-longer-than-steps",
        "error",
        "`unroll` over {unrolled} steps, but `{level}` takes {steps}",
    ),
    Code(
        "MLO0609",
        "unroll-warm",
        "warning",
        "`unroll` with `start = warm` sees only the last {steps} steps of `{level}`",
    ),
    Code(
        "MLO0610",
        "stochastic-solve-undamped",
        "warning",
        "`{strategy}` on the stochastic objective of `{level}` without damping",
    ),
    Code("MLO0611", "start-copy", "error", "cannot start `{level}` from `{source}`: {reason}"),
    Code(
        "MLO0612",
        "strategy-path-too-long",
        "error",
        "`{strategy}` through `{level}` is not implemented for paths longer than {longest}",
    ),
    Code(
        "MLO0613",
        "memory-exceeds-device",
        "warning",
        "estimated memory for `{strategy}` is {needed}, the device has {available}",
    ),
    Code("MLO0614", "setting-path", "error", "setting `{path}` {problem}"),
    Code(
        "MLO0615",
        "conflicting-schedules",
        "error",
        "`{lower}` is updated by `{first}` and `{second}`, which take different numbers of steps",
    ),
    Code(
        "MLO0616",
        "optimizer-cannot-solve",
        "error",
        "optimizer `{optimizer}` cannot solve `{level}`: {reason}",
    ),
    Code(
        "MLO0617",
        "total-curvature-circular",
        "error",
        "`curvature = total` of `{level}` has no order to be computed in",
    ),
    Code(
        "MLO0618",
        "pattern-matches-nothing",
        "error",
        "`{setting}`: `{pattern}` matches nothing of level `{level}`",
    ),
    Code(
        "MLO0619",
        "not-as-in-betty",
        "warning",
        '`compat = "betty"` does not reproduce all of `{level}`: Betty {what}',
    ),
    Code("MLO0620", "cannot-score", "error", "`score` cannot go through `{level}`: {problem}"),
)
