"""MLO08: the run block, devices and checkpoints."""

from bettyc.diagnostics.codes.row import Code

CODES = (
    Code("MLO0801", "unknown-metric", "error", "no metric `{name}` to {use}"),
    Code(
        "MLO0802",
        "device-not-visible",
        "error",
        "`device = {device}`, but no such device is visible",
    ),
    Code(
        "MLO0803",
        "checkpoint-of-other-program",
        "error",
        "checkpoint `{path}` was written by another program",
    ),
    Code(
        "MLO0804",
        "half-precision-solve",
        "pedantic",
        "`precision = {precision}` with `{strategy}` through `{level}`",
    ),
)
