import pytest

from blockwise_lora.diffusion.prompts import (
    CONDITIONS,
    Concept,
    PromptError,
    PromptTemplate,
    fill,
    fill_all,
    parse_prompts,
)
from blockwise_lora.parameters import ParameterError

CAT, STYLE = Concept("zkc", "cat face"), Concept("qwo", "style")


def by_condition(template):
    return [fill(template, condition, CAT, STYLE) for condition in CONDITIONS]


def test_each_condition_has_its_words():
    assert CONDITIONS == ("base", "character", "style", "both")
    assert by_condition("{style}, {character}, kissing") == [
        "cat face, kissing",
        "zkc cat face, kissing",
        "qwo style, cat face, kissing",
        "qwo style, zkc cat face, kissing",
    ]


@pytest.mark.parametrize(
    ("template", "base", "both"),
    [
        ("{character}, kissing, {style}", "cat face, kissing", "zkc cat face, kissing, qwo style"),
        ("{character} ,{style} , kissing", "cat face, kissing", "zkc cat face, qwo style, kissing"),
        ("a {character} in a hat", "a cat face in a hat", "a zkc cat face in a hat"),
        ("{style}, a red house", "a red house", "qwo style, a red house"),
        ("{character}", "cat face", "zkc cat face"),
        ("{style},, {character},", "cat face", "qwo style, zkc cat face"),
    ],
)
def test_the_style_goes_with_its_comma(template, base, both):
    assert by_condition(template)[0] == base
    assert by_condition(template)[-1] == both


def test_words_of_one_concept_are_not_filled_in_again():
    odd = Concept("{style}", "cat")
    assert fill("{style}, {character}", "character", odd, STYLE) == "{style} cat"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{charakter}, running", r"\{charakter\}; known are \{character\} and \{style\}"),
        ("a cat}", "known are"),
        ("{character} in {style}", "must stand between commas"),
        ("{style}", "name a subject"),
        ("", "name a subject"),
    ],
)
def test_prompts_that_cannot_be_filled_in(template, message):
    with pytest.raises(PromptError, match=message):
        fill_all(["{character}", template], "both", CAT, STYLE)


def test_the_parameter_group():
    given = [{"text": "{character}", "truth": "a.png"}, {"text": "{style}, {character}"}]
    assert parse_prompts(given) == (
        PromptTemplate("{character}", "a.png", None),
        PromptTemplate("{style}, {character}"),
    )
    with pytest.raises(ParameterError, match=r"prompts\[1\]\.txt"):
        parse_prompts([{"text": "a"}, {"txt": "b"}])
    with pytest.raises(PromptError):
        parse_prompts([{"text": "{stile}"}])
    for nothing in ([], None, "a prompt"):
        with pytest.raises(ParameterError, match="at least one prompt"):
            parse_prompts(nothing)
