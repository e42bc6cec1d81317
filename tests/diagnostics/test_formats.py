"""The formats for machines: concise, JSON lines, GitHub commands, SARIF."""

import json
import re
from importlib import resources

import pytest

from bettyc.diagnostics.model import Diagnostic, Edit, Label, Note, Suggestion
from bettyc.diagnostics.render import FORMATS, render, summary
from bettyc.diagnostics.span import Span

TEXT = "level a {\n  var é : real\n  minimize é^2 + b.y\n}\n"


@pytest.fixture
def source(program):
    return program("dir/a b.mlo", TEXT)


@pytest.fixture
def diagnostic(source):
    return Diagnostic(
        "MLO0201",
        "unknown level `b`",
        source.at("b.y"),
        "no such level",
        (Label(source.at("level a"), "the only level"),),
        (Note("levels: a"), Note("declared here", source.at("é"))),
        (
            Suggestion("say `a`", (Edit(source.at("b.y"), "é"),), "machine-applicable"),
            Suggestion("or declare `b`"),
        ),
    )


@pytest.fixture
def placeless():
    return Diagnostic("MLO0506", "file `x` is not found", None, severity="warning")


def objects(diagnostics, source):
    return [
        json.loads(line) for line in render(diagnostics, {source.name: source}, "json").split("\n")
    ]


def test_concise(diagnostic, placeless, source):
    text = render([diagnostic, placeless], {source.name: source}, "concise")

    assert text == (
        "dir/a b.mlo:3:18: error[MLO0201]: unknown level `b`\n"
        "warning[MLO0506]: file `x` is not found"
    )


def test_json_places_are_one_based_and_offsets_zero_based(diagnostic, source):
    (found,) = objects([diagnostic], source)

    start = TEXT.index("b.y")
    assert found["primary"] == {
        "file": "dir/a b.mlo",
        "start": {"line": 3, "col": 18, "offset": start},
        "end": {"line": 3, "col": 21, "offset": start + 3},
        "label": "no such level",
    }
    assert found["suggestions"][0]["edits"] == [
        {
            "file": "dir/a b.mlo",
            "start": {"line": 3, "col": 18, "offset": start},
            "end": {"line": 3, "col": 21, "offset": start + 3},
            "text": "é",
        }
    ]
    assert (found["code"], found["name"]) == ("MLO0201", "unknown-level")
    assert found["rendered"] == render([diagnostic], {source.name: source})


def test_json_agrees_with_its_schema(diagnostic, placeless, source):
    schema = json.loads(resources.files("bettyc.diagnostics").joinpath("schema.json").read_text())
    elsewhere = Diagnostic("MLO0202", "unknown name `x`", Span("gone.mlo", 0, 1))

    for found in objects([diagnostic, placeless, elsewhere], source):
        check_schema(found, schema, schema["$defs"])


def test_the_schema_check_can_fail(diagnostic, source):
    schema = json.loads(resources.files("bettyc.diagnostics").joinpath("schema.json").read_text())
    (found,) = objects([diagnostic], source)

    for change in (
        {"severity": "fatal"},
        {"extra": 1},
        {"code": "E1"},
        {"primary": {"file": "a"}},
        {"schema": 2},
        {"message": 3},
        {"notes": [{"message": "m"}]},
    ):
        with pytest.raises(AssertionError):
            check_schema(found | change, schema, schema["$defs"])


def check_schema(value, schema, definitions):
    """The part of JSON Schema that `schema.json` uses; an unknown word in it is an error."""
    known = {"type", "const", "enum", "pattern", "minimum", "anyOf", "$ref", "items", "required"}
    known |= {"properties", "additionalProperties", "description", "title", "$schema", "$defs"}
    assert set(schema) <= known
    if "$ref" in schema:
        check_schema(value, definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    if "anyOf" in schema:
        assert any(agrees(value, option, definitions) for option in schema["anyOf"]), value
    if "type" in schema:
        types = {"object": dict, "array": list, "string": str, "integer": int, "null": type(None)}
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        assert any(type(value) is types[name] for name in names), value
    assert "const" not in schema or value == schema["const"]
    assert "enum" not in schema or value in schema["enum"]
    assert "pattern" not in schema or re.search(schema["pattern"], value)
    assert "minimum" not in schema or value is None or value >= schema["minimum"]
    for item in value if "items" in schema else ():
        check_schema(item, schema["items"], definitions)
    if "properties" in schema:
        assert set(schema["required"]) <= set(value) <= set(schema["properties"])
        for key, entry in value.items():
            check_schema(entry, schema["properties"][key], definitions)


def agrees(value, schema, definitions):
    try:
        check_schema(value, schema, definitions)
    except AssertionError:
        return False
    return True


def test_the_url_is_the_page_of_the_code(diagnostic, source):
    (found,) = objects([diagnostic], source)

    assert found["url"].startswith("file://")
    assert found["url"].endswith("/pages/MLO0201.md")


def test_github_escapes_what_would_end_a_value(diagnostic, placeless, source):
    percent = Diagnostic(
        "MLO0501", "100% is\ntoo much", Span("a,b:c.mlo", 0, 1), severity="pedantic"
    )

    text = render([diagnostic, placeless, percent], {source.name: source}, "github")

    assert text.split("\n") == [
        "::error file=dir/a b.mlo,line=3,col=18,endLine=3,endColumn=21,title=MLO0201 unknown-level"
        "::unknown level `b`: no such level%0Ahelp: say `a`%0Ahelp: or declare `b`",
        "::warning title=MLO0506 data-not-found::file `x` is not found",
        "::notice file=a%2Cb%3Ac.mlo,title=MLO0501 split-fractions::100%25 is%0Atoo much",
    ]


def test_sarif_is_one_document(diagnostic, placeless, source):
    document = json.loads(render([placeless, diagnostic], {source.name: source}, "sarif"))

    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    assert run["columnKind"] == "unicodeCodePoints"
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["MLO0201", "MLO0506"]
    first, second = run["results"]
    assert first["locations"] == []
    assert first["level"] == "warning"
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
    physical = second["locations"][0]["physicalLocation"]
    assert physical["artifactLocation"] == {"uri": "dir/a%20b.mlo"}
    assert physical["region"] == {
        "charOffset": TEXT.index("b.y"),
        "charLength": 3,
        "startLine": 3,
        "startColumn": 18,
        "endLine": 3,
        "endColumn": 21,
    }
    related = [place["message"]["text"] for place in second["relatedLocations"]]
    assert related == ["the only level", "declared here"]
    (fix,) = second["fixes"]
    (change,) = fix["artifactChanges"]
    assert change["replacements"][0]["insertedContent"] == {"text": "é"}


def test_sarif_without_findings_has_an_empty_run():
    (run,) = json.loads(render([], {}, "sarif"))["runs"]

    assert run["results"] == []
    assert run["tool"]["driver"]["name"] == "bettyc"


@pytest.mark.parametrize("format", [format for format in FORMATS if format != "sarif"])
def test_nothing_is_printed_for_nothing(format):
    assert render([], {}, format) == ""


def test_an_unknown_format_names_the_known():
    with pytest.raises(ValueError, match="unknown format 'xml'; formats: full, concise, json"):
        render([], {}, "xml")


def test_summary_counts_by_severity(diagnostic, placeless):
    pedantic = Diagnostic("MLO0901", "m", None, severity="pedantic")

    assert summary([placeless, diagnostic, diagnostic]) == "2 errors, 1 warning"
    assert summary([pedantic]) == "1 pedantic finding"
    assert summary([]) == ""
