"""What people write who come from other languages, and what it is called here."""

from __future__ import annotations

from bettyc.diagnostics.model import Edit, Suggestion
from bettyc.diagnostics.span import Span
from bettyc.expr import Graph
from bettyc.grammar import ast
from bettyc.ops import FUNCTIONS, OPS, ShapeError
from bettyc.types import Tensor

# Functions of PyTorch, NumPy and others whose names are not near enough for did-you-mean.
FOREIGN = {
    "average": "mean",
    "binary_cross_entropy": "bce",
    "binary_cross_entropy_with_logits": "bce",
    "cat": "concat",
    "concatenate": "concat",
    "cross_entropy": "xent",
    "huber_loss": "huber",
    "l2": "sumsq",
    "logistic": "sigmoid",
    "matrix_multiply": "matmul",
    "mse_loss": "mse",
    "nll_loss": "xent",
    "stop_gradient": "detach",
    "sum_squares": "sumsq",
    "t": "transpose",
}
NOTES = {
    "len": "`mean(...)` divides by the number of rows; a dim of the data's type is that number",
    "shape": "sizes are dims: name them in the types of data and variables",
    "size": "sizes are dims: name them in the types of data and variables",
    "where": "write `if condition then a else b`",
    "pow": "write `x^2`",
}
PACKAGES = ("F", "jax", "jnp", "math", "nn", "np", "numpy", "torch")


def function(name: str, span: Span) -> tuple[list[Suggestion], list[str]]:
    """Suggestions and notes for a function that is called otherwise here."""
    word = FOREIGN.get(name.lower())
    suggestions = []
    if word is not None:
        cure = f"it is called `{word}` here"
        suggestions.append(Suggestion(cure, (Edit(span, word),), "maybe-incorrect"))
    return suggestions, [NOTES[name]] if name in NOTES else []


def package(name: str) -> list[str]:
    """The note for `torch.mean(...)`."""
    if name not in PACKAGES:
        return []
    return ["functions are called by their name alone: `mean(...)`; see `bettyc list functions`"]


def method(node: ast.Field, written: str) -> tuple[list[Suggestion], list[str]]:
    """`x.mean()` and `x.T` of a tensor. written: the tensor in the text, "" when not known."""
    name = FOREIGN.get(node.name.text.lower(), node.name.text)
    if node.name.text in NOTES:
        return [], [NOTES[node.name.text]]
    if name not in FUNCTIONS:
        return [], ["a tensor has no fields"]
    if name != "transpose" or not written:
        return [], [f"functions are called, not methods: `{name}({written or '...'})`"]
    call = f"{name}({written})"
    return [Suggestion(f"write `{call}`", (Edit(node.span, call),), "maybe-incorrect")], []


def other_way_round(
    graph: Graph, op: str, operands: list[int], nodes: list[ast.Expr]
) -> list[Suggestion]:
    """`x @ w` for `w @ x`, where that fits and both are simple enough to be moved."""
    simple = (ast.Name, ast.Field, ast.Response)
    if op != "matmul" or len(nodes) != 2 or not all(isinstance(n, simple) for n in nodes):
        return []
    try:
        OPS[op].shape([graph[o].type for o in operands[::-1]], {})
    except ShapeError:
        return []
    left, right = text(nodes[0]), text(nodes[1])
    edits = (Edit(nodes[0].span, right), Edit(nodes[1].span, left))
    return [Suggestion("the other way round it fits", edits, "maybe-incorrect")]


def one_logit(graph: Graph, op: str, operands: list[int], span: Span) -> list[Suggestion]:
    """`bce` for `xent` of one logit per label."""
    types = [graph[o].type for o in operands]
    ranks = [len(t.shape) if isinstance(t, Tensor) else -1 for t in types]
    if op != "xent" or len(ranks) != 2 or ranks[0] != ranks[1]:
        return []
    word = Span(span.file, span.start, span.start + len(op))
    cure = "`xent` takes a row of logits per label; with one logit each, use `bce`"
    return [Suggestion(cure, (Edit(word, "bce"),), "maybe-incorrect")]


def text(node: ast.Expr) -> str:
    """A name with its dots as it is written, "" for another expression."""
    if isinstance(node, ast.Field | ast.Response):
        base, dot = text(node.base), "." if isinstance(node, ast.Field) else "*."
        return f"{base}{dot}{node.name.text}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""
