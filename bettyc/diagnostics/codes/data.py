"""MLO05: data sets, splits, batches and files."""

from bettyc.diagnostics.codes.row import Code

CODES = (
    Code(
        "MLO0501",
        "split-fractions",
        "error",
        "fractions of the split of `{name}` add up to {total}",
    ),
    Code(
        "MLO0502",
        "same-data",
        "error",
        "`{lower}` and `{upper}`, which judges it, learn from the same data, `{name}`",
    ),
    Code(
        "MLO0503", "data-overlap", "warning", "`{first}` and `{second}` have {count} rows in common"
    ),
    Code(
        "MLO0504",
        "batch-too-large",
        "error",
        "batch of {batch} is larger than `{name}`, which has {rows} rows",
    ),
    Code(
        "MLO0505",
        "metric-on-optimized-data",
        "warning",
        "metric `{metric}` uses `{name}`, which level `{level}` optimizes on",
    ),
    Code("MLO0506", "data-not-found", "error", "file `{path}` {problem}"),
    Code("MLO0507", "data-does-not-fit", "error", "`{column}` {found}, declared `{declared}`"),
    Code("MLO0508", "no-stable-index", "error", "`{batch}.index` needs a source with stable rows"),
    Code(
        "MLO0509",
        "index-of-other-data",
        "error",
        "`{variable}` has one entry per row of `{data}`, but is indexed by a batch of `{other}`",
    ),
    Code("MLO0510", "unknown-columns", "error", "the columns of `{name}` are not declared"),
    Code("MLO0511", "data-runs-out", "error", "`{name}` {problem}"),
)
