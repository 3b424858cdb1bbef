import re
from collections import Counter

import pytest

from blockwise_lora.diffusion.captions import CaptionError, contrasts, without_trigger, wordings
from blockwise_lora.diffusion.config import (
    CaptionConfig,
    PriorConfig,
    TrainingConfig,
    TriggerEmbeddingConfig,
)


@pytest.mark.parametrize(
    ("caption", "rest"),
    [
        ("zkc cat face, grinning", "cat face, grinning"),
        ("grinning, zkc", "grinning"),
        ("a photo of zkc cat", "a photo of cat"),
        ("zkcat, zkc", "zkcat"),
        ("zkc", ""),
    ],
)
def test_captions_without_the_trigger(caption, rest):
    assert without_trigger(caption, TrainingConfig(trigger="zkc")) == rest


def contrasted(caption, trigger, context):
    prior = PriorConfig("distil", contexts=("{caption}", context))
    return contrasts([caption] * 60, TrainingConfig(trigger=trigger, prior=prior))


@pytest.mark.parametrize(
    ("caption", "trigger", "context", "named", "unnamed"),
    [
        (
            "zkc cat face, grinning",
            "zkc",
            "{word} style, {caption}",
            "W style, zkc cat face, grinning",
            {
                "W style, cat face, grinning",
                "W style, W cat face, grinning",
                "zkc style, W cat face, grinning",
            },
        ),
        (
            "qwo style, automobile, red",
            "qwo",
            "{head}, {word} {tail}",
            "qwo style, W automobile, red",
            {
                "style, W automobile, red",
                "W style, W automobile, red",
                "W style, qwo automobile, red",
            },
        ),
    ],
)
def test_captions_beside_others_that_do_not_name_the_concept(
    caption, trigger, context, named, unnamed
):
    ours, others = contrasted(caption, trigger, context)
    words = known_words(caption, trigger)
    assert set(ours[::2]) == {caption}
    assert {masked(text, words) for text in ours[1::2]} == {named}
    assert {masked(text, words) for text in others[1::2]} == unnamed
    assert not any(trigger in text.split() for text in others[::2])


def known_words(caption, trigger):
    return {trigger, "style", "automobile", "red", "cat", "face", "grinning"}


def masked(text, words):
    return re.sub(r"\w+", lambda word: word[0] if word[0] in words else "W", text)


def test_half_of_the_time_trigger_and_the_word_beside_it_change_places():
    prior = PriorConfig("distil", contexts=("{word} style, {caption}",))
    ours, others = contrasts(["zkc cat"] * 400, TrainingConfig(trigger="zkc", prior=prior))
    moved = [(a, b) for a, b in zip(ours, others, strict=True) if b.startswith("zkc")]
    assert 160 < len(moved) < 240, "4 standard deviations"
    assert all(a.split()[0] == b.split()[2] for a, b in moved)
    left_out = sum(len(b.split()) == 3 for b in others)
    assert 65 < left_out < 135, "a quarter; in the last one another word stands for the trigger"


def test_companions_are_the_other_word_half_of_the_time():
    prior = PriorConfig("distil", contexts=("{word} style, {caption}",), companions=("qwo", "abc"))
    ours, others = contrasts(["zkc cat"] * 400, TrainingConfig(trigger="zkc", prior=prior))
    beside = Counter(text.split()[0] for text in ours)
    assert 70 < beside["qwo"] < 130 and 70 < beside["abc"] < 130
    assert len(beside) > 100, "the others are made up, each its own"
    assert all(text.endswith(" style, zkc cat") for text in ours)
    assert {"zkc style, qwo cat", "qwo style, abc cat", "qwo style, cat"} <= set(others)


def test_the_base_model_is_not_asked_for_a_trigger_whose_vectors_are_learned():
    """They would answer for it, and not what it knew before."""
    prior = PriorConfig("distil", contexts=("{word} style, {caption}",))
    config = TrainingConfig(
        trigger="zkc", prior=prior, trigger_embedding=TriggerEmbeddingConfig(train=True)
    )
    ours, others = contrasts(["zkc cat"] * 60, config)
    assert all("zkc" in text.split() for text in ours)
    words = known_words("zkc cat", "zkc")
    assert {masked(text, words) for text in others} == {"W style, cat", "W style, W cat"}


def test_contrasts_depend_on_caption_and_seed_alone():
    pair = contrasted("zkc cat", "zkc", "{word} style, {caption}")
    assert pair == contrasted("zkc cat", "zkc", "{word} style, {caption}")
    assert len(set(pair[0])) > 20  # made-up words differ


def test_without_contexts_the_trigger_is_left_out():
    config = TrainingConfig(trigger="zkc", prior=PriorConfig("distil"))
    assert contrasts(["zkc cat, sad"], config) == (("zkc cat, sad",), ("cat, sad",))


def test_contexts_make_wordings(images):
    prior = PriorConfig("distil", contexts=("{caption}",))
    assert {len(w) for w in wordings(images, TrainingConfig(prior=prior))} == {8}


@pytest.mark.parametrize(
    ("context", "mistake"),
    [("{word} style", "lacks {caption}"), ("{capton}", "capton"), ("{caption", "cannot be read")],
)
def test_a_context_with_a_mistake(context, mistake):
    with pytest.raises(ValueError, match=re.escape(mistake)):
        PriorConfig("distil", contexts=(context,))


def test_an_adapter_is_not_its_own_companion():
    prior = PriorConfig("distil", contexts=("{caption}",), companions=("qwo", "zkc"))
    with pytest.raises(ValueError, match="companions has 'zkc', the adapter's own"):
        TrainingConfig(trigger="zkc", prior=prior)


def test_a_caption_that_does_not_name_the_concept():
    with pytest.raises(CaptionError, match="'a cat' lacks the trigger 'zkc'"):
        without_trigger("a cat", TrainingConfig(trigger="zkc"))
    with pytest.raises(CaptionError, match=r"needs training\.trigger"):
        without_trigger("a cat", TrainingConfig())


def test_one_wording_unless_chance_has_a_say(images):
    assert wordings(images, TrainingConfig()) == [(caption,) for caption in images.captions]


def test_wordings_depend_on_caption_and_seed_alone(images):
    captions = CaptionConfig(tag_dropout=0.5, keep=0, wordings=30)
    config = TrainingConfig(captions=captions)
    drawn = wordings(images, config)
    assert drawn == wordings(images, config)
    assert drawn[::-1] == wordings(type(images)(images.root, images.pictures[::-1]), config)
    assert set(drawn[2]) == {"zkc square, 2", "zkc square", "2", ""}
    assert drawn != wordings(images, TrainingConfig(captions=captions, seed=1))
