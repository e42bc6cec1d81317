"""MLO07: Python objects named by `extern`, checked against their declarations (`--import`)."""

from bettyc.diagnostics.codes.row import Code

CODES = (
    Code("MLO0701", "import-failed", "error", "cannot import `{module}`"),
    Code("MLO0702", "no-attribute", "error", "`{module}` has no attribute `{name}`"),
    Code("MLO0703", "wrong-python-kind", "error", "`{name}` is not {expected}"),
    Code("MLO0704", "python-signature", "error", "`{name}` has no parameter `{argument}`"),
    Code("MLO0705", "extern-result", "error", "`{name}` returns {found}, declared `{declared}`"),
    Code(
        "MLO0706",
        "stateful-module",
        "warning",
        "`{name}` updates buffers ({buffers}) on the path of a hypergradient",
    ),
    # A warning, not an error: the declaration is trusted until the first real batch is checked.
    Code("MLO0707", "extern-unchecked", "warning", "`{name}` could not be checked without data"),
    Code(
        "MLO0708",
        "extern-breaks-gradient",
        "error",
        "`{name}` cuts the gradient of its argument `{argument}`",
    ),
    Code(
        "MLO0709",
        "no-second-derivative",
        "error",
        "`{name}` has no second derivative, which `{strategy}` through `{level}` needs",
    ),
    Code(
        "MLO0710",
        "extern-not-deterministic",
        "warning",
        "`{name}` gives two results for one input under a fixed seed",
    ),
)
