"""MLO04: types, shapes and dims that do not fit together."""

from bettyc.diagnostics.codes.row import Code

CODES = (
    Code(
        "MLO0401",
        "shape-mismatch",
        "error",
        "shape mismatch in `{operator}`: `{left}` and `{right}` (`{left_dim}` vs `{right_dim}`)",
    ),
    Code("MLO0402", "cannot-broadcast", "error", "cannot broadcast `{left}` with `{right}`"),
    Code("MLO0403", "objective-not-scalar", "error", "objective is not a scalar: `{type}`"),
    Code("MLO0404", "wrong-type", "error", "expected {expected}, found {found}"),
    Code(
        "MLO0405",
        "label-count",
        "error",
        "labels are `{labels}` but the logits have {classes} classes",
    ),
    Code(
        "MLO0406", "index-out-of-range", "error", "index {index} out of range: axis has size {size}"
    ),
    Code("MLO0407", "too-many-indices", "error", "too many indices for `{type}`: {given} given"),
    Code("MLO0408", "network-as-tensor", "error", "network `{name}` is used as a tensor"),
    Code(
        "MLO0409",
        "parameter-structures-differ",
        "error",
        "`{left}` and `{right}` have different parameter structures",
    ),
    Code(
        "MLO0410",
        "dim-bound-twice",
        "error",
        "dim `{name}` is bound twice: {first} says {first_size}, {second} says {second_size}",
    ),
    Code("MLO0411", "dim-never-bound", "error", "dim `{name}` is never bound"),
    Code(
        "MLO0412",
        "initial-value-shape",
        "error",
        "initial value of `{name}` is `{found}`, but the variable is `{declared}`",
    ),
    Code(
        "MLO0413",
        "initial-value-outside-domain",
        "error",
        "initial value {value} of `{name}` is outside its domain `{domain}`",
    ),
    Code(
        "MLO0414",
        "arms-differ",
        "error",
        "the arms of `if` have different types: `{left}`, `{right}`",
    ),
    Code("MLO0415", "unknown-type", "error", "unknown type `{name}`"),
    Code(
        "MLO0416",
        "sum-over-batch",
        "warning",
        "`sum` over the batch axis `{dim}`: the objective scales with the batch size",
    ),
    Code("MLO0417", "no-such-axis", "error", "no axis {axis} in `{type}`"),
    Code("MLO0418", "wrong-form", "error", "`{function}` needs {expected}, found `{found}`"),
)
