"""MLO02: names that do not resolve, resolve twice, or are used where they cannot be."""

from bettyc.diagnostics.codes.row import Code

CODES = (
    Code("MLO0201", "unknown-level", "error", "unknown level `{name}`"),
    Code("MLO0202", "unknown-name", "error", "unknown name `{name}`"),
    Code("MLO0203", "unknown-variable", "error", "level `{level}` has no variable `{name}`"),
    Code("MLO0204", "already-declared", "error", "`{name}` is already declared"),
    Code("MLO0205", "shadows-built-in", "error", "`{name}` shadows a built-in {kind}"),
    Code("MLO0206", "defined-by-itself", "error", "`{name}` is defined in terms of itself"),
    Code("MLO0207", "foreign-batch", "error", "`{level}.{name}` is a batch of another level"),
    Code("MLO0208", "unknown-function", "error", "unknown function `{name}`"),
    Code(
        "MLO0209",
        "wrong-argument-count",
        "error",
        "`{name}` takes {expected}, {given} given",
    ),
    Code("MLO0210", "unknown-argument", "error", "`{function}` has no argument `{name}`"),
    Code("MLO0211", "import-cycle", "error", "`{name}` imports itself: {chain}"),
    Code("MLO0212", "misplaced-word", "error", "`{name}` has a meaning only {where}"),
    Code(
        "MLO0213",
        "mixed-reads",
        "error",
        "`{level}` is read both as `{starred}` and as `{bare}` in one objective",
    ),
)
