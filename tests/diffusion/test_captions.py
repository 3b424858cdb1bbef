import pytest

from blockwise_lora.diffusion.captions import CaptionError, without_trigger, wordings
from blockwise_lora.diffusion.config import CaptionConfig, PriorConfig, TrainingConfig


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


def test_another_word_in_the_triggers_place():
    config = TrainingConfig(trigger="qwo", prior=PriorConfig(replacement="xyv"))
    assert without_trigger("qwo style, automobile", config) == "xyv style, automobile"


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
