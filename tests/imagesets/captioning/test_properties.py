"""Whatever captions hold: every picture gets a row, and no rule takes more than it may."""

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blockwise_lora.imagesets.captioning import (
    Captioner,
    CaptionRule,
    ConceptTagRules,
    Subject,
    TagRules,
    TextLimit,
)
from blockwise_lora.imagesets.captioning.sources.beside import Beside
from blockwise_lora.imagesets.captioning.sources.file_name import FileName
from blockwise_lora.imagesets.captioning.sources.template import Template
from blockwise_lora.imagesets.captioning.tags import key, split_tags

# Words that meet each other, odd signs, and whatever hypothesis finds.
TEXTS = st.one_of(
    st.lists(
        st.sampled_from(["cat", "Cat", "zkc", "a_b", "a b", "{caption}", "*", "[x]", "", "\u2028"]),
        max_size=6,
    ).map(", ".join),
    st.text(max_size=40),
)
RULES = st.builds(
    TagRules,
    synonyms=st.dictionaries(st.sampled_from(["cat", "x"]), st.sampled_from(["", "dog", "b, c"])),
    blacklist=st.lists(st.sampled_from(["a*", "[x]", "?"])).map(tuple),
    order=st.sampled_from(["kept", "alphabet", "frequent"]),
)
TEMPLATES = st.sampled_from(["{trigger} {caption}", "{trigger} style, {caption}", "{caption}"])


def picture(file: str, text: str) -> Subject:
    return Subject(file, lambda: Image.new("RGB", (1, 1)), {"sidecar": text})


@settings(max_examples=500, deadline=None)
@given(st.lists(TEXTS, max_size=6), st.lists(TEXTS, max_size=4), RULES, TEMPLATES, st.booleans())
def test_every_picture_gets_its_row(texts, others, rules, template, remove):
    captioner = Captioner(
        CaptionRule("zkc", "cat face", template),
        (Beside("sidecar"), FileName(), Template()),
        rules,
        ConceptTagRules(remove=remove),
        limit=TextLimit(len, 20),
    )
    pictures = [picture(f"{i}.png", text) for i, text in enumerate(texts)]
    background = [picture(f"{i}.png", text) for i, text in enumerate(others)]
    table = captioner(pictures, background=background)
    assert [row.file for row in table.rows] == [p.file for p in pictures]
    own = {key(tag.tag) for tag in table.concept_tags if tag.own}
    for row, text in zip(table.rows, texts, strict=True):
        assert row.source
        assert row.before == (text if text else "")
        assert {key(tag) for tag in row.removed} <= (own if remove else set())
        assert row.tokens == len(row.after)
        if "{trigger}" in template:
            assert "zkc" in row.after


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.booleans())
def test_without_rules_only_the_concepts_tags_go(texts, remove):
    captioner = Captioner(
        CaptionRule("zkc", "cat face"), (Beside("sidecar"),), concept=ConceptTagRules(remove=remove)
    )
    table = captioner([picture(str(i), text) for i, text in enumerate(texts)])
    for row in table.rows:
        before = {key(tag) for tag in split_tags(row.before)}
        gone = {key(tag) for tag in row.removed}
        # The trigger may stand before a tag, in one word group with it.
        after = " ".join(f" {key(row.after)} ".replace(",", " , ").split())
        for tag in before - gone:
            assert " ".join(tag.replace(",", " , ").split()) in after
