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
    Code("MLO0805", "not-a-run", "error", "`{path}` {problem}, so it is not the folder of a run"),
    Code("MLO0806", "damaged-run", "warning", "`{path}` {problem}"),
    Code("MLO0807", "empty-run", "warning", "`{path}` has no finished update"),
    Code("MLO0808", "sweep-syntax", "error", "`--sweep` {problem}"),
    Code(
        "MLO0809",
        "graph-not-recorded",
        "warning",
        "`{work}` runs without a CUDA graph: {problem}",
    ),
)
