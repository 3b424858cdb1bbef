from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from PIL import Image

from blockwise_lora.imagesets.captioning import (
    Captioner,
    CaptionRule,
    ConceptTagRules,
    Subject,
    TagRules,
    TextLimit,
)
from blockwise_lora.imagesets.captioning.captioner import spread
from blockwise_lora.imagesets.captioning.sources.beside import Beside
from blockwise_lora.imagesets.captioning.sources.file_name import FileName
from blockwise_lora.imagesets.captioning.sources.template import Template

RULE = CaptionRule("zkc", "cat face")
SIDECAR, METADATA = Beside("sidecar"), Beside("metadata")
REMOVE = ConceptTagRules(remove=True)


@dataclass
class Asked:
    """A source that remembers what it was asked."""

    answers: dict[str, str | None]
    name: str = "asked"
    files: list[str] = field(default_factory=list)

    def captions(self, subjects):
        self.files += [s.file for s in subjects]
        return [self.answers.get(s.file) for s in subjects]


@pytest.fixture
def cats(subject):
    words = ("grinning", "weary", "kissing", "crying")
    return [subject(f"{word}.png", sidecar=f"cat face, {word}") for word in words]


@pytest.fixture
def others(subject):
    return [subject(f"{i}.png", "blue", sidecar=f"thing {i}, round") for i in range(8)]


def after(table):
    return [row.after for row in table.rows]


def test_the_first_source_that_has_a_caption_gives_it(subject):
    late = Asked({"c": "out of the model", "a": "unheard"})
    pictures = [subject("a", sidecar="x", metadata="y"), subject("b", metadata="y")]
    pictures += [subject("c"), subject("d")]
    table = Captioner(RULE, (SIDECAR, METADATA, late))(pictures)
    assert [(r.source, r.before, r.after) for r in table.rows] == [
        ("sidecar", "x", "zkc x"),
        ("metadata", "y", "zkc y"),
        ("asked", "out of the model", "zkc out of the model"),
        ("", "", ""),
    ]
    assert late.files == ["c", "d"]  # a slow model is not asked in vain
    other_way_round = Captioner(RULE, (METADATA, SIDECAR, Template()))(pictures)
    assert after(other_way_round) == ["zkc y", "zkc y", "zkc cat face", "zkc cat face"]


def test_a_persons_word_wins_and_no_rule_touches_it(cats):
    captioner = Captioner(RULE, (SIDECAR,), TagRules(blacklist=("*",)), REMOVE)
    review = {"weary.png": "cat face, tired", "kissing.png": "a zkc that kisses", "crying.png": ""}
    table = captioner(cats, review=review)
    assert table.of("weary.png").source == "review"
    assert table.of("weary.png").after == "zkc cat face, tired"
    assert table.of("kissing.png").after == "a zkc that kisses"
    assert table.of("crying.png").source == "sidecar"


def test_the_concepts_tags_go_to_the_trigger(cats, others):
    table = Captioner(RULE, (SIDECAR,), concept=REMOVE)(cats, background=others)
    assert after(table) == ["zkc, grinning", "zkc, weary", "zkc, kissing", "zkc, crying"]
    assert [(t.tag, t.own, t.background) for t in table.concept_tags] == [("cat face", True, 0.0)]
    assert table.rows[0].removed == ("cat face",)
    assert table.rows[0].before == "cat face, grinning"


def test_switched_off_they_are_listed_and_stay(cats, others):
    table = Captioner(RULE, (SIDECAR,))(cats, background=others)
    assert after(table)[0] == "zkc cat face, grinning"
    assert table.concept_tags[0].own
    assert not table.removed
    assert table.rows[0].removed == ()


def test_what_the_other_pictures_have_as_well_stays(others):
    table = Captioner(RULE, (SIDECAR,), concept=REMOVE)(others[:4], background=others)
    assert not any(tag.own for tag in table.concept_tags)
    assert after(table)[0] == "zkc thing 0, round"


def test_a_tag_with_the_trigger_in_it_is_no_concept_tag(subject, others):
    pictures = [subject(str(i), sidecar=f"zkc cat, sitting, {i}") for i in range(5)]
    table = Captioner(RULE, (SIDECAR,), concept=REMOVE)(pictures, background=others)
    assert after(table)[0] == "zkc cat, 0"


def test_pictures_without_words_follow_when_the_class_word_goes(cats, others, subject):
    pictures = [*cats * 5, subject("plain.png")]
    pictures = [replace(p, file=f"{i}{p.file}") for i, p in enumerate(pictures)]
    table = Captioner(RULE, (SIDECAR, Template()), concept=REMOVE)(pictures, background=others)
    assert after(table)[-1] == "zkc"
    assert after(table)[0] == "zkc, grinning"


def test_clean_up_comes_before_counting(subject, others):
    words = ("kitty, a", "cat, b", "Cat, c", "cat, d")
    pictures = [subject(str(i), sidecar=text) for i, text in enumerate(words)]
    captioner = Captioner(RULE, (SIDECAR,), TagRules(synonyms={"kitty": "cat"}), REMOVE)
    assert after(captioner(pictures, background=others))[0] == "zkc, a"


class Eye:
    """Sees red, and takes `cat` and `animal` for red, everything else for blue."""

    scale = 1.0

    def __init__(self):
        self.calls = 0

    def images(self, pictures):
        self.calls += 1
        rows = np.array([np.asarray(p, float).mean((0, 1)) + 1 for p in pictures])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def texts(self, texts):
        red, blue = np.array([1.0, 0, 0]), np.array([0, 0, 1.0])
        return np.stack([red if t in ("cat", "animal") else blue for t in texts])


def test_the_judge_finds_what_some_captions_leave_out(subject, others):
    words = ("cat, animal", "cat, animal", "cat, animal, big", "cat, big", "cat, big")
    pictures = [subject(f"{i}.png", sidecar=text) for i, text in enumerate(words)]
    eye = Eye()
    captioner = Captioner(RULE, (SIDECAR,), concept=REMOVE, judge=lambda: eye)
    table = captioner(pictures, background=others)
    found = {tag.tag: (tag.prevalence, tag.covered, tag.own) for tag in table.concept_tags}
    assert found == {
        "cat": (1.0, 1.0, True),
        "animal": (0.6, 1.0, True),
        "big": (0.6, 0.6, False),  # what captions say counts, though the judge does not see it
    }
    assert after(table) == ["zkc", "zkc", "zkc, big", "zkc, big", "zkc, big"]
    captioner(pictures)  # nothing to compare with: nothing to look at
    assert eye.calls == 2


def test_tokens_are_counted_and_long_captions_named(cats):
    limit = TextLimit(lambda text: len(text.split()), 4)
    long = Subject("long.png", lambda: Image.new("RGB", (1, 1)), {"sidecar": "a b c d e"})
    table = Captioner(RULE, (SIDECAR,), limit=limit)([*cats, long])
    assert [row.tokens for row in table.rows] == [4, 4, 4, 4, 6]
    assert len(table.warnings) == 1
    assert "the 4 that the text encoder" in table.warnings[0]
    assert "long.png (6)" in table.warnings[0]


def test_the_same_input_gives_the_same_table(cats, others):
    def make():
        return Captioner(RULE, (SIDECAR, FileName()), concept=REMOVE)(cats, background=others)

    assert make() == make()


def test_no_pictures_no_captions():
    table = Captioner(RULE, (SIDECAR,), concept=REMOVE)([])
    assert (table.rows, table.concept_tags) == ((), ())


def test_spread_takes_items_from_all_over():
    assert spread(list(range(10)), 4) == [0, 2, 5, 7]
    assert spread([1, 2], 4) == [1, 2]
    assert spread([], 4) == []
