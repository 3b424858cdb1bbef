import pytest

from blockwise_lora.imagesets.captioning import CaptionRule

CAT = CaptionRule("zkc", "cat face")
STYLE = CaptionRule("qwo", "style", "{trigger} style, {caption}")


@pytest.mark.parametrize(
    ("rule", "own", "composed"),
    [
        (CAT, "cat face, grinning", "zkc cat face, grinning"),
        (STYLE, "automobile, car", "qwo style, automobile, car"),
        (CAT, "", "zkc cat face"),
        (STYLE, "", "qwo style"),
        (CAT, "a zkc, running", "a zkc, running"),
        (CAT, "a zkcs, running", "zkc a zkcs, running"),
        (CAT, "{trigger} in braces", "zkc {trigger} in braces"),
        (CaptionRule("zkc", "cat", "photo of {trigger} {class_word}"), "x", "photo of zkc cat"),
        (CaptionRule("zkc", "cat", "{caption}, {trigger}"), "x, y", "x, y, zkc"),
    ],
)
def test_composed_captions(rule, own, composed):
    assert rule.compose(own) == composed


@pytest.mark.parametrize(
    ("rule", "left", "composed"),
    [
        (CAT, "grinning", "zkc, grinning"),
        (CAT, "", "zkc"),
        (STYLE, "car", "qwo style, car"),
        (STYLE, "", "qwo style"),
        (CAT, "zkc, grinning", "zkc, grinning"),
        (CaptionRule("zkc", "cat", "{trigger} {class_word}, {caption}"), "x", "zkc cat, x"),
        (CaptionRule("zkc", "cat", "{caption}, {trigger}"), "x", "x, zkc"),
    ],
)
def test_the_trigger_stands_alone_where_it_took_over(rule, left, composed):
    assert rule.compose_without(left) == composed


@pytest.mark.parametrize(
    "template",
    ["{triger} x", "{trigger.__class__}", "{}", "{trigger", "{trigger!r}", "{trigger:>9}"],
)
def test_templates_with_other_fields_are_refused(template):
    with pytest.raises(ValueError, match="caption_template"):
        CaptionRule("zkc", "cat", template)


def test_empty_words_are_refused_together():
    with pytest.raises(ValueError, match=r"trigger is empty.*\nclass_word is empty"):
        CaptionRule(" ", "")
