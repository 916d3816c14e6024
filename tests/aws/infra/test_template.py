"""The loader: CloudFormation's tags as plain data, and what refers to what."""

from __future__ import annotations

import re

import pytest
import yaml

from infra.template import TEMPLATE, Scope, Template, TemplateError, load_template


@pytest.fixture(scope="module")
def template() -> Template:
    return load_template()


def scope_of(conditions=None, **sections) -> Scope:
    return Scope(
        template=Template({"Conditions": conditions or {}, **sections}),
        pseudo={"AWS::Region": "eu-west-1"},
        refs={"Queue": "https://queue"},
        attributes={"Queue.Arn": "arn:queue"},
    )


def test_short_tags_become_long_ones(tmp_path):
    file = tmp_path / "template.yaml"
    file.write_text(
        "a: !Ref X\n"
        "b: !GetAtt X.Arn.More\n"
        "c: !Sub ${X}-y\n"
        "d: !If [C, !Ref X, !Ref AWS::NoValue]\n"
        "e: !FindInMap [M, !Ref X, Seconds]\n"
        "f: !Sub [text, {k: !Ref X}]\n"
    )
    assert load_template(file).sections == {
        "a": {"Ref": "X"},
        "b": {"Fn::GetAtt": ["X", "Arn.More"]},
        "c": {"Fn::Sub": "${X}-y"},
        "d": {"Fn::If": ["C", {"Ref": "X"}, {"Ref": "AWS::NoValue"}]},
        "e": {"Fn::FindInMap": ["M", {"Ref": "X"}, "Seconds"]},
        "f": {"Fn::Sub": ["text", {"k": {"Ref": "X"}}]},
    }


def test_the_template_has_the_names_that_others_rely_on(template):
    assert {
        *("RunsTable", "WorkQueue", "DeadLetterQueue", "PayloadBucket", "ScheduleGroup", "SchedulerRole"),
        *("WorkerFunction", "ApiFunction", "DeadLetterFunction", "HttpApi", "ApiTokenSecret", "Dashboard"),
    } <= set(template.resources)


def test_a_function_has_the_globals_and_its_own(template):
    api = template.properties("ApiFunction")
    assert api["Handler"] == "handlers.api.handler"
    assert api["CodeUri"] == "handlers/"
    variables = api["Environment"]["Variables"]
    assert {"EVERSTEP_TABLE", "EVERSTEP_API_TOKEN_SECRET"} <= set(variables)
    assert "EVERSTEP_API_TOKEN_SECRET" not in template.properties("WorkerFunction")["Environment"]["Variables"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"Ref": "AWS::Region"}, "eu-west-1"),
        ({"Ref": "Queue"}, "https://queue"),
        ({"Fn::GetAtt": ["Queue", "Arn"]}, "arn:queue"),
        ({"Fn::Sub": "${AWS::Region}/${Queue.Arn}/${!kept}"}, "eu-west-1/arn:queue/${kept}"),
        ({"Fn::Sub": ["${x}", {"x": {"Ref": "Queue"}}]}, "https://queue"),
        ({"Fn::Join": ["-", ["a", {"Ref": "Queue"}]]}, "a-https://queue"),
        ({"Fn::Select": [1, ["a", "b"]]}, "b"),
        ({"a": [1, {"Ref": "AWS::NoValue"}], "b": {"Ref": "AWS::NoValue"}}, {"a": [1]}),
    ],
)
def test_references_resolve(value, expected):
    assert scope_of().resolve(value) == expected


@pytest.mark.parametrize(("size", "expected"), [("small", {"kept": 1}), ("large", {"kept": 1, "more": "yes"})])
def test_conditions_choose(size, expected):
    conditions = {
        "Large": {"Fn::Equals": [{"Ref": "Size"}, "large"]},
        "Both": {"Fn::And": [{"Condition": "Large"}, {"Fn::Not": [{"Fn::Equals": ["a", "b"]}]}]},
    }
    template = Template({"Parameters": {"Size": {"Default": "small"}}, "Conditions": conditions})
    scope = Scope(template=template, parameters={"Size": size})
    value = {"kept": 1, "more": {"Fn::If": ["Both", "yes", {"Ref": "AWS::NoValue"}]}}
    assert scope.resolve(value) == expected


@pytest.mark.parametrize(
    "value",
    [{"Ref": "Nothing"}, {"Fn::GetAtt": ["Queue", "Nothing"]}, {"Fn::Cidr": ["10.0.0.0/8"]}, {"Fn::Sub": "${Nothing}"}],
)
def test_what_is_not_known_is_an_error_and_no_guess(value):
    with pytest.raises(TemplateError, match=r"Nothing|Cidr"):
        scope_of().resolve(value)


def test_a_parameter_that_is_not_there_is_refused(template):
    with pytest.raises(TemplateError, match="Typo"):
        Scope(template=template, parameters={"Typo": "1"})


def test_there_is_no_yaml_alias_since_cloudformation_has_none():
    kinds = {type(event).__name__ for event in yaml.parse(TEMPLATE.read_text())}
    assert "AliasEvent" not in kinds


def test_the_reference_page_names_every_parameter_resource_and_output(template):
    page = (TEMPLATE.parent / "docs" / "reference" / "aws-template.md").read_text()
    for section in ("Parameters", "Resources", "Outputs"):
        for name in template.section(section):
            assert f"`{name}`" in page, f"{section}: {name}"


def test_the_reference_page_shows_the_defaults(template):
    page = (TEMPLATE.parent / "docs" / "reference" / "aws-template.md").read_text()
    for name, default in template.defaults().items():
        shown = default or "empty"
        assert re.search(rf"^\| `{name}` \| `?{re.escape(shown)}`? \|", page, re.MULTILINE), name
