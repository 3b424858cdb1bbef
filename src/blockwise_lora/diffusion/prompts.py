"""Prompts with places for two concepts, filled in for each combination of adapters.

"{style}, {character}, kissing"
both        "qwo style, zkc cat face, kissing"
character   "zkc cat face, kissing"
style       "qwo style, cat face, kissing"
base        "cat face, kissing"
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from blockwise_lora.errors import UserError
from blockwise_lora.parameters import ParameterError, typed

Condition = Literal["base", "character", "style", "both"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)
"""Which adapters are active."""


class PromptError(UserError):
    """A prompt that cannot be filled in."""


@dataclass(frozen=True)
class Concept:
    """The words for what an adapter was trained on.

    Attributes:
        trigger: the rare word that stands for it.
        class_word: what it is a kind of, for models that do not know the trigger.
    """

    trigger: str
    class_word: str

    @property
    def words(self) -> str:
        """What stands in a prompt when its adapter is active."""
        return f"{self.trigger} {self.class_word}"


@dataclass(frozen=True)
class PromptTemplate:
    """An entry of the parameter group `prompts`.

    Attributes:
        text: with places for the concepts, see `fill`.
        truth: file name of the true picture, where one exists.
        style_picture: file name of the nearest thing among the style's own pictures.
    """

    text: str
    truth: str | None = None
    style_picture: str | None = None


def parse_prompts(entries: Sequence[Mapping[str, Any]]) -> tuple[PromptTemplate, ...]:
    """The parameter group `prompts`, checked.

    Raises:
        ParameterError: there is none, or an entry does not fit.
        PromptError: an entry cannot be filled in.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        raise ParameterError("prompts: expected a list with at least one prompt")
    templates = tuple(typed(PromptTemplate, e, f"prompts[{i}]") for i, e in enumerate(entries))
    for template in templates:
        check(template.text)
    return templates


def fill(template: str, condition: Condition, character: Concept, style: Concept) -> str:
    """Fill in a prompt for the adapters that are active.

    Args:
        template: comma-separated; {character} anywhere, {style} as an entry of its own, so that
            it can be left out where the style is not active.
        condition: which adapters are active.
        character: words for {character}; its class word where its adapter is not active.
        style: words for {style}.

    Raises:
        PromptError: another field in braces, a {style} that cannot be left out, or nothing left.
    """
    check(template)
    entries = [entry.strip() for entry in template.split(",")]
    if condition not in ("style", "both"):
        entries = [entry for entry in entries if entry != "{style}"]
    shown = character.words if condition in ("character", "both") else character.class_word
    prompt = ", ".join(entry for entry in entries if entry)
    return prompt.replace("{style}", style.words).replace("{character}", shown)


def check(template: str) -> None:
    """Check that a prompt can be filled in for every condition.

    Raises:
        PromptError: as `fill`.
    """
    unknown = set(re.findall(r"{[^{}]*}?|}", template)) - {"{character}", "{style}"}
    if unknown:
        raise PromptError(
            f"prompts: {template!r} has {sorted(unknown)[0]}; known are {{character}} and {{style}}"
        )
    entries = [entry.strip() for entry in template.split(",")]
    if any("{style}" in entry and entry != "{style}" for entry in entries):
        raise PromptError(
            f"prompts: in {template!r}, {{style}} must stand between commas or at an end, so that "
            f"it can be left out where the style is off: '{{style}}, {{character}}, running'"
        )
    if not any(entry and entry != "{style}" for entry in entries):
        raise PromptError(f"prompts: {template!r} says nothing but the style; name a subject")


def fill_all(
    templates: Sequence[str], condition: Condition, character: Concept, style: Concept
) -> list[str]:
    """`fill` for several prompts."""
    return [fill(template, condition, character, style) for template in templates]
