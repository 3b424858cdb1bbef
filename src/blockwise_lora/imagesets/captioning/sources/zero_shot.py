"""Tags that a model of pictures and texts sees in a picture, out of a list (Radford et al. 2021).

Cosines of different tags are not on one scale, so that a threshold on them means little. But
"which of these is it" is what such models were trained to answer: the list has groups, such as
colours, and within a group a softmax gives shares, section 3.1 of "Learning Transferable Visual
Models From Natural Language Supervision".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from blockwise_lora.imagesets.captioning.subject import Encoder, Subject, batched
from blockwise_lora.imagesets.captioning.tags import join_tags, key, split_tags
from blockwise_lora.imagesets.captioning.templates import check_fields
from blockwise_lora.imagesets.errors import ImageSetError


@dataclass(frozen=True)
class ZeroShotConfig:
    """The parameter group `zero_shot`.

    Attributes:
        clip: folder of a CLIP judge, or ARCHITECTURE/TAG of a public open_clip model.
        tags: file with one tag a line; an empty line begins another group, `#` a comment.
        prompt: what the model reads for a tag; {tag} is its place.
        confidence: least share within its group at which a tag is given, above 0 to 1; above 0.5
            there is one tag a group at most.

    Raises:
        ValueError: a value is out of its range.
    """

    clip: str = "data/06_models/judges/clip"
    tags: str = "conf/base/tags.txt"
    prompt: str = "{tag}"
    confidence: float = 0.5

    def __post_init__(self) -> None:
        mistakes = check_fields(self.prompt, ("tag",), "prompt")
        if "{tag}" not in self.prompt:
            mistakes.append(f"prompt {self.prompt!r} has no {{tag}}")
        if not 0 < self.confidence <= 1:
            mistakes.append(f"confidence is above 0 and at most 1, not {self.confidence}")
        if mistakes:
            raise ValueError("\n".join(mistakes))


@dataclass(frozen=True)
class ZeroShot:
    """The tagger.

    Attributes:
        encoder: the model.
        groups: tags that exclude each other more or less.
        config: prompt and confidence.
        name: of the source.
    """

    encoder: Encoder
    groups: tuple[tuple[str, ...], ...]
    config: ZeroShotConfig
    name: str = "zero_shot"

    def captions(self, subjects: Sequence[Subject]) -> list[str | None]:
        """Tags group by group, the surest first; None where the model is sure of none."""
        found: list[str | None] = []
        for batch in batched(subjects):
            pictures = self.encoder.images([subject.open() for subject in batch])
            logits = [self.encoder.scale * pictures @ texts.T for texts in self._texts]
            found += [self._caption([group[i] for group in logits]) for i in range(len(batch))]
        return found

    @cached_property
    def _texts(self) -> list[np.ndarray]:
        prompts = [[self.config.prompt.format(tag=tag) for tag in group] for group in self.groups]
        return [self.encoder.texts(group) for group in prompts]

    def _caption(self, logits: Sequence[np.ndarray]) -> str | None:
        tags = []
        for group, values in zip(self.groups, logits, strict=True):
            shares = np.exp(values - values.max())
            shares /= shares.sum()
            order = np.argsort(-shares, kind="stable")
            tags += [group[i] for i in order if shares[i] >= self.config.confidence]
        return join_tags(tags) or None


def read_tags(file: str | Path) -> tuple[tuple[str, ...], ...]:
    """The groups of a tag list.

    Raises:
        ImageSetError: no such file, not UTF-8, no tag in it, a group with a single tag, a tag
            with a comma, or one that is there twice. Lines are named.
    """
    file = Path(file)
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ImageSetError(
            f"{file}: cannot be read ({error.strerror}); correct captioning.zero_shot.tags"
        ) from error
    except UnicodeDecodeError:
        raise ImageSetError(f"{file}: not UTF-8; save it as UTF-8") from None
    groups: list[list[str]] = [[]]
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        tag = " ".join(line.split("#")[0].split())
        if not line.strip():
            groups.append([])
        elif tag:
            _check_tag(tag, f"{file}, line {number}", seen)
            seen[key(tag)] = number
            groups[-1].append(tag)
    found = tuple(tuple(group) for group in groups if group)
    if not found:
        raise ImageSetError(f"{file}: no tags in it; write one a line")
    for group in found:
        if len(group) == 1:
            raise ImageSetError(
                f"{file}: {group[0]!r} is alone in its group, so every picture would get it; "
                "add what else it could be"
            )
    return found


def _check_tag(tag: str, where: str, seen: dict[str, int]) -> None:
    if len(split_tags(tag)) != 1:
        raise ImageSetError(f"{where}: {tag!r} has a comma; write one tag a line")
    if key(tag) in seen:
        raise ImageSetError(f"{where}: {tag!r} is there already, line {seen[key(tag)]}")
