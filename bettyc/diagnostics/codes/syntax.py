"""MLO01: text that is not a program."""

from bettyc.diagnostics.codes.row import Code

CODES = (
    Code("MLO0100", "unexpected-token", "error", "unexpected {found}"),
    Code("MLO0101", "unexpected-character", "error", "unexpected character `{character}`"),
    Code("MLO0102", "unterminated-string", "error", "string does not end on its line"),
    Code("MLO0103", "missing-brace", "error", "missing `}}` before {found}"),
    Code("MLO0104", "unclosed-bracket", "error", "expected `,` or `{close}`, found {found}"),
    Code("MLO0105", "unknown-statement", "error", "unknown statement `{word}`"),
    Code("MLO0106", "missing-operator", "error", "missing operator before {found}"),
    Code("MLO0107", "expected-token", "error", "expected {expected} after {after}, found {found}"),
    Code("MLO0108", "missing-digit", "error", "number needs a {place} digit"),
    Code("MLO0109", "foreign-syntax", "error", "{found} is not part of mlo"),
    Code(
        "MLO0110",
        "language-version",
        "error",
        "this file needs mlo {needed}, this compiler speaks {spoken}",
    ),
    Code("MLO0111", "nested-too-deep", "error", "nested more than {deepest} levels deep"),
    Code("MLO0112", "file-too-large", "error", "file has more than {largest} characters"),
)
