"""What is put before the judges: pictures in rows of the table, prompts, references, anchors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from blockwise_lora.judges.panel import Views
from blockwise_lora.judges.weights import JudgeError

BASE = "base"
REAL = "real"
WRONG_EXPRESSION = "real-wrong-expression"
REAL_CHARACTER = "real-character"
REAL_STYLE = "real-style"
COPY = "copy"
STYLE_PICTURE = "style-picture"
ANCHORS = (REAL, WRONG_EXPRESSION, REAL_CHARACTER, REAL_STYLE, BASE, COPY, STYLE_PICTURE)
CONDITIONS = ("character", "style", "both")


@dataclass(frozen=True)
class Row:
    """A row of the table: an anchor, or a variant under a condition."""

    variant: str
    condition: str = ""

    @property
    def anchor(self) -> bool:
        return not self.condition

    def __str__(self):
        return self.variant if self.anchor else f"{self.variant}/{self.condition}"


@dataclass(frozen=True)
class Sample:
    """One picture to be judged.

    Attributes:
        row: where it belongs in the table.
        prompt: index of its prompt; for real pictures without a prompt, of the picture.
        seed: of its noise; 0 where there was none.
        picture: the picture.
        prompted: whether `prompt` is the index of a question.
    """

    row: Row
    prompt: int
    seed: int
    picture: Image.Image
    prompted: bool = True


@dataclass(frozen=True)
class Question:
    """One prompt as the judges see it.

    Attributes:
        text: what the picture should show, in plain words, without trigger words or style.
        truth: the picture that would be right, where it exists.
        style_picture: the nearest thing in the style's own pictures, where one was named.
    """

    text: str
    truth: Image.Image | None = None
    style_picture: Image.Image | None = None


@dataclass(frozen=True)
class References:
    """The pictures that the adapters learned from."""

    character: tuple[Image.Image, ...]
    style: tuple[Image.Image, ...]

    def __post_init__(self):
        for name in ("character", "style"):
            if not getattr(self, name):
                raise JudgeError(
                    f"no {name} pictures to compare with: run the curation pipeline and "
                    f"see its report for what was dropped"
                )


def real_samples(questions: Sequence[Question], references: References) -> list[Sample]:
    """Real pictures as rows.

    The training pictures, each compared with the others of its set. And true pictures where there
    are some: each under its own prompt, and under every other prompt, too (the right character
    in the right style with the wrong expression).
    """
    groups = {REAL_CHARACTER: references.character, REAL_STYLE: references.style}
    learned = [
        Sample(Row(name), i, 0, picture, prompted=False)
        for name, pictures in groups.items()
        for i, picture in enumerate(pictures)
    ]
    truths = {i: q.truth for i, q in enumerate(questions) if q.truth is not None}
    own = [Sample(Row(REAL), i, 0, picture) for i, picture in truths.items()]
    others = [
        Sample(Row(WRONG_EXPRESSION), i, j, picture)
        for i in truths
        for j, picture in truths.items()
        if i != j
    ]
    return own + others + learned


def style_picture_samples(questions: Sequence[Question]) -> list[Sample]:
    """The same expression taken from the style's own pictures: right style, wrong character."""
    return [
        Sample(Row(STYLE_PICTURE), i, 0, question.style_picture)
        for i, question in enumerate(questions)
        if question.style_picture is not None
    ]


def copy_samples(
    questions: Sequence[Question],
    references: References,
    samples: Sequence[Sample],
    views: Views,
) -> list[Sample]:
    """Copying: for each prompt the character's training picture nearest to the answer.

    The answer is the true picture (so the copyist is shown it, which no method is) or, where there
    is none, the mean of what the methods drew. Nearness is the cosine of the DINO judge.
    """
    character = views.dino[views.of(references.character)]
    copies = []
    for i, question in enumerate(questions):
        if question.truth is not None:
            answer = [question.truth]
        else:
            answer = [s.picture for s in samples if s.prompt == i and s.row.condition == "both"]
        if answer:
            goal = views.dino[views.of(answer)].mean(0)
            nearest = references.character[int(np.argmax(character @ goal))]
            copies.append(Sample(Row(COPY), i, 0, nearest))
    return copies
