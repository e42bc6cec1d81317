"""The full format against renderings written by hand."""

import re
from textwrap import dedent

import pytest

from bettyc.diagnostics.model import Diagnostic, Edit, Label, Note, Suggestion
from bettyc.diagnostics.registry import report
from bettyc.diagnostics.render import render
from bettyc.diagnostics.span import Span

LOGREG = """\
mlo 0.1
# (a) Per-coordinate weight decay, tuned on validation loss.
# Pure algebra: GLM + diagonal quadratic, so `auto` plans an analytic HVP and CG.

dim n, d

data all : { x: real[n, d], y: int<2>[n] } from npz("digits_3v5.npz")
split all into train = 0.5, val = 0.25, test = 0.25 with (seed = 0)

param lr   : real in positive = 0.05
param init : real = -3            # initial log weight decay

def nll(w, s) = mean(bce(s.x @ w, s.y))     # bce = binary cross-entropy on logits

level fit {
  var w : real[d] = zeros
  minimize nll(w, train) + 0.5 * sum(exp(tune.log_wd) * w^2)

  optimizer = lbfgs(tol = 1e-8)
  start     = warm
}

level tune {
  var log_wd : real[d] = fill(init)
  minimize nll(fit.w, val)
}
"""

# The example of the design, character by character.
UNDIRECTED = """\
error[MLO0319]: `fit.w` is read by `tune`, but nothing says `fit` is above `tune`
  --> a_logreg_hpo.mlo:25:16
   |
24 |   var log_wd : real[d] = fill(init)
   |       ------ with this read, the objective never feels `log_wd`
25 |   minimize nll(fit.w, val)
   |                ^^^^^ a bare read is a current value and carries no gradient
   |
note: `fit` reads `tune.log_wd` in turn
  --> a_logreg_hpo.mlo:17:42
   |
17 |   minimize nll(w, train) + 0.5 * sum(exp(tune.log_wd) * w^2)
   |                                          ^^^^^^^^^^^
help: if `fit` is solved below `tune`, read its response (differentiated)
   |
25 |   minimize nll(fit*.w, val)
   |                   +
help: if the two play simultaneously, say so on both reads: `detach(fit.w)`, `detach(tune.log_wd)`
   = see `bettyc explain MLO0319`"""


def undirected(source):
    return report(
        "MLO0319",
        source.at("fit.w"),
        label="a bare read is a current value and carries no gradient",
        secondary=[
            Label(source.at("log_wd", 1), "with this read, the objective never feels `log_wd`")
        ],
        notes=[Note("`fit` reads `tune.log_wd` in turn", source.at("tune.log_wd"))],
        suggestions=[
            Suggestion(
                "if `fit` is solved below `tune`, read its response (differentiated)",
                (
                    Edit(
                        Span(
                            source.name, source.at("fit.w").start + 3, source.at("fit.w").start + 3
                        ),
                        "*",
                    ),
                ),
            ),
            Suggestion(
                "if the two play simultaneously, say so on both reads:"
                " `detach(fit.w)`, `detach(tune.log_wd)`"
            ),
        ],
        read="fit.w",
        reader="tune",
        level="fit",
    )


def shown(source, span, label="", secondary=(), **more):
    """What is printed for an unremarkable diagnostic, without its first and last two lines."""
    diagnostic = Diagnostic("MLO0202", "m", span, label, tuple(secondary), **more)
    text = render([diagnostic], {source.name: source}, explain_hint=False, width=more.get("width"))
    head, *rest = text.split("\n")
    assert head == "error[MLO0202]: m"
    return "\n".join(rest)


def drawing(text):
    """A drawing as written in a test: indented, with a line break before and after."""
    return dedent(text).strip("\n")


def test_the_example_of_the_design(program):
    source = program("a_logreg_hpo.mlo", LOGREG)

    assert render([undirected(source)], {source.name: source}) == UNDIRECTED


def test_colour_adds_nothing_but_colour(program):
    source = program("a_logreg_hpo.mlo", LOGREG)

    colored = render([undirected(source)], {source.name: source}, color=True)

    assert colored.startswith("\x1b[1;31merror[MLO0319]\x1b[0m\x1b[1m: `fit.w` is read")
    assert "\x1b[1;31m^^^^^\x1b[0m" in colored
    assert "\x1b[1;34m------\x1b[0m" in colored
    assert re.sub(r"\x1b\[[\d;]*m", "", colored) == UNDIRECTED


def test_several_labels_on_a_line_hang_below(program):
    source = program("a.mlo", "minimize x @ w + b\n")
    labels = [
        Label(source.at("x"), "`x` is real[n, d]"),
        Label(source.at("w"), "`w` is real[m]"),
    ]

    assert shown(source, source.at("@"), "`d` vs `m`", labels) == drawing("""
         --> a.mlo:1:12
          |
        1 | minimize x @ w + b
          |          - ^ - `w` is real[m]
          |          | |
          |          | `d` vs `m`
          |          `x` is real[n, d]
        """)


def test_a_label_around_another_is_drawn_below_it(program):
    source = program("a.mlo", "minimize f(x)\n")

    assert shown(source, source.at("x"), "in", [Label(source.at("f(x)"), "out")]) == drawing("""
         --> a.mlo:1:12
          |
        1 | minimize f(x)
          |          --^-
          |          | |
          |          | in
          |          out
        """)


def test_lines_far_apart_are_elided_and_a_gap_of_one_is_filled(program):
    source = program("a.mlo", "one\ntwo\nthree\nfour\nfive\nsix\n")
    labels = [Label(source.at("three"), ""), Label(source.at("six"), "last")]

    assert shown(source, source.at("one"), "first", labels) == drawing("""
         --> a.mlo:1:1
          |
        1 | one
          | ^^^ first
        2 | two
        3 | three
          | -----
        ...
        6 | six
          | --- last
        """)


def test_spans_of_several_lines_have_bars(program):
    source = program("a.mlo", "level a {\n  minimize f(\n    x,\n    y)\n}\n")
    whole = Span("a.mlo", 0, len(source.text))
    call = Span("a.mlo", source.at("f(").start, source.at("y)").end)

    assert shown(source, call, "this call", [Label(whole, "in this level")]) == drawing("""
         --> a.mlo:2:12
          |
        1 | /  level a {
        2 | |    minimize f(
          | | ____________^
        3 | ||     x,
        4 | ||     y)
          | ||______^ this call
        5 | |  }
          | |__- in this level
        """)


def test_a_tall_span_shows_its_first_and_last_lines(program):
    source = program("a.mlo", "level a {\n" + "  #\n" * 20 + "}\n")

    assert shown(source, Span("a.mlo", 0, len(source.text) - 1), "long") == drawing("""
          --> a.mlo:1:1
           |
         1 | / level a {
        ...
        22 | | }
           | |_^ long
        """)


def test_tabs_and_wide_characters_keep_the_marks_in_place(program):
    # A tab fills up to column 4, each of the two ideographs is two columns wide,
    # and the acute accent combines with the letter before it.
    source = program("a.mlo", "\tlet 重み = e\u0301 + w\n")

    assert shown(source, source.at("重み"), "", [Label(source.at("w"), "w")]) == drawing("""
         --> a.mlo:1:6
          |
        1 |     let 重み = e\u0301 + w
          |         ^^^^       - w
        """)


def test_characters_that_move_the_cursor_or_reorder_text_are_replaced(program):
    source = program("a.mlo", "let a\x1b[2J = \u202eb\n")

    assert "1 | let a\ufffd[2J = \ufffdb" in shown(source, source.at("b"))


@pytest.mark.parametrize("text", ["level a {", "level a {\n", ""])
def test_the_end_of_a_text_can_be_marked(program, text):
    source = program("a.mlo", text)
    end = Span("a.mlo", len(text), len(text))

    *_, line, marks = shown(source, end, "here").split("\n")

    last = text.split("\n")[-1]
    assert line == f"{text.count(chr(10)) + 1} | {last}".rstrip()
    assert marks == "  | " + " " * len(last) + "^ here"


def test_a_long_line_is_cut_around_its_mark(program):
    source = program("a.mlo", "a" * 100 + " + here + " + "b" * 100 + "\n")
    diagnostic = Diagnostic("MLO0202", "m", source.at("here"))

    text = render([diagnostic], {"a.mlo": source}, explain_hint=False, width=44)

    # Forty columns beside the margin: an ellipsis, eight letters before " + ", and one at the end.
    assert text.split("\n")[-2:] == [
        "1 | …" + "a" * 8 + " + here + " + "b" * 20 + "…",
        "  |             ^^^^",
    ]


def test_labels_in_another_file_have_their_own_excerpt(program):
    one, two = program("one.mlo", "import x\n"), program("two.mlo", "def f = f\n")
    diagnostic = Diagnostic(
        "MLO0211", "m", one.at("import"), "here", (Label(two.at("f", 1), "and there"),)
    )

    text = render([diagnostic], {"one.mlo": one, "two.mlo": two}, explain_hint=False)

    assert text == drawing("""
        error[MLO0211]: m
         --> one.mlo:1:1
          |
        1 | import x
          | ^^^^^^ here
         ::: two.mlo:1:5
          |
        1 | def f = f
          |     - and there
        """)


def test_a_diagnostic_without_a_place(program):
    diagnostic = Diagnostic(
        "MLO0506", "file `x.npz` is not found", None, notes=(Note("looked\nin ."),)
    )

    assert render([diagnostic], {}) == drawing("""
        error[MLO0506]: file `x.npz` is not found
        note: looked
              in .
          = see `bettyc explain MLO0506`
        """)


def test_a_file_that_is_not_at_hand_is_named():
    diagnostic = Diagnostic("MLO0202", "m", Span("gone.mlo", 3, 4))

    assert render([diagnostic], {}, explain_hint=False) == "error[MLO0202]: m\n --> gone.mlo"


def fixes(source, *edits):
    """The preview of a suggestion, from the line below its sentence."""
    suggestion = Suggestion("do it", edits)
    text = shown(source, source.at("fit"), suggestions=(suggestion,))
    return text.split("help: do it\n")[1]


def test_a_replacement_is_underlined(program):
    source = program("a.mlo", "minimize fit\n")

    assert fixes(
        source, Edit(source.at("minimize"), "maximize"), Edit(source.after("fit"), "*.w")
    ) == drawing("""
          |
        1 | maximize fit*.w
          | ~~~~~~~~    +++
        """)


def test_a_deletion_shows_the_line_before_and_after(program):
    source = program("a.mlo", "minimize detach(fit*.w)\n")

    assert fixes(source, Edit(source.at("detach("), ""), Edit(source.at(")"), "")) == drawing("""
          |
        1 - minimize detach(fit*.w)
        1 + minimize fit*.w
        """)


def test_removed_and_added_lines(program):
    source = program("a.mlo", "param a : real\nparam b : real\nfit\n")

    assert fixes(source, Edit(source.at("param b : real\n"), "")) == drawing("""
          |
        2 - param b : real
        """)
    assert fixes(source, Edit(source.after("param b : real\n"), "param c : real\n")) == drawing("""
          |
        3 + param c : real
        """)


def test_an_edit_may_join_lines_that_end_in_crlf(program):
    source = program("a.mlo", "fit\r\n  + 1\r\nrest\r\n")

    assert fixes(source, Edit(source.at("\r\n  "), " ")) == drawing("""
          |
        1 - fit
        2 -   + 1
        1 + fit + 1
        """)


def test_the_margin_is_as_wide_as_the_widest_number(program):
    source = program("a.mlo", "fit\n" + "\n" * 98 + "here\n")

    assert fixes(source, Edit(source.after("here"), "!")) == drawing("""
            |
        100 | here!
            |     +
        """)
