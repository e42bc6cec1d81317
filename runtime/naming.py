"""How emitted functions name and find the leaves of a formula."""

from __future__ import annotations

import re

from bettyc.expr import Node
from bettyc.runtime.link import Linked


def plain(name: str) -> str:
    """An identifier out of a dotted name."""
    return re.sub(r"\W", "_", name)


def argument(node: Node) -> str:
    """The argument's name: `fit_w`, `train_x`."""
    named = dict(node.attrs)
    if node.op in ("var", "module"):
        return plain(f"{named['level']}_{named['name']}")
    owner = named.get("data") or named.get("draw") or named.get("level") or named.get("name")
    field = named.get("field")
    return plain(f"{owner}_{field}" if field else str(owner))


def source(linked: Linked, node: Node) -> str:
    """Where the leaf's tensor is, as an expression of `theta`, `frame` and `columns`."""
    named = dict(node.attrs)
    if node.op in ("var", "module"):
        level = named["level"]
        return linked.layouts[level].text(
            named["name"], f'theta["{level}"]', f'frame.buffers["{level}"]["frozen"]'
        )
    field = named.get("field") or ""
    if node.op == "task":
        level = named["level"]
        return f'frame.tasks["{level}"][frame.replica["{level}"]]["{field}"]'
    return f'columns["{named.get("data") or named.get("draw")}", "{field}"]'
