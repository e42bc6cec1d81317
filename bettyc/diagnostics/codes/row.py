"""The shape of a row: one kind of finding, without its long explanation (that is in `pages/`)."""

from __future__ import annotations

from typing import NamedTuple

from bettyc.diagnostics.model import Severity


class Code(NamedTuple):
    """One kind of finding.

    `message` is a `str.format` template: what is wrong, lower case, no full stop, never the cure.
    Names and pieces of source stand in backticks, as the user wrote them.
    """

    code: str
    name: str
    severity: Severity
    message: str
