import pytest

from blockwise_lora.imagesets import CaptionRule, CurationConfig
from blockwise_lora.parameters import ParameterError, typed

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
    ],
)
def test_composed_captions(rule, own, composed):
    assert rule.compose(own) == composed


@pytest.mark.parametrize("template", ["{triger} x", "{trigger.__class__}", "{}", "{trigger"])
def test_templates_with_other_fields_are_refused(template):
    with pytest.raises(ValueError, match="caption_template"):
        CaptionRule("zkc", "cat", template)


def test_empty_words_are_refused_together():
    with pytest.raises(ValueError, match=r"trigger is empty.*\nclass_word is empty"):
        CaptionRule(" ", "")


def test_all_mistakes_at_once():
    wrong = {"resolution": 63, "square": "cropp", "hash_bits": 65}
    with pytest.raises(ParameterError, match="did you mean 'crop'"):
        typed(CurationConfig, wrong, "curation")
    wrong = {"resolution": 63, "background": "whit", "captions": [], "workers": 0}
    with pytest.raises(ParameterError) as caught:
        typed(CurationConfig, wrong, "curation")
    for part in ("multiple of 8", "'whit' is no colour", "names at least one source", "workers"):
        assert part in str(caught.value)
