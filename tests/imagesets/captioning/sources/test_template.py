import pytest

from blockwise_lora.imagesets.captioning.sources.template import Template


def test_empty_is_an_answer(subject):
    assert Template().captions([subject("a.png"), subject("b.png")]) == ["", ""]


def test_words_out_of_the_pictures_place(subject):
    source = Template("{class_word}, {folder}, {file_name}", "cat face")
    subjects = [subject("v1.5_outdoors/big_smile.png"), subject("IMG_1.png"), subject("x/0.png")]
    assert source.captions(subjects) == [
        "cat face, v1 5 outdoors, big smile",
        "cat face",
        "cat face, x",
    ]


@pytest.mark.parametrize("text", ["{name}", "{folder.x}", "{", "{file_name!r}"])
def test_other_fields_are_refused(text):
    with pytest.raises(ValueError, match="template"):
        Template(text)
