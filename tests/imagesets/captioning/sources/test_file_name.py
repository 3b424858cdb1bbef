import pytest

from blockwise_lora.imagesets.captioning.sources.file_name import FileName, words


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("sub/Red_Apple (2).jpg", "red apple"),
        ("grinning-cat.png", "grinning cat"),
        ("cat face, grinning.png", "cat face, grinning"),
        ("007 apple 12.png", "apple"),
        ("2 cats.png", "cats"),
        ("area 51 sign.png", "area 51 sign"),
        ("猫-été.png", "猫 été"),
        ("new car.png", "new car"),
        ("facade.png", "facade"),
        ("3f2a9c81d0e4 cat.png", "cat"),
        ("archive.tar.png", "archive tar"),
    ],
)
def test_words(file, said):
    assert words(file) == said


@pytest.mark.parametrize(
    "file",
    [
        "IMG_1234.JPG",
        "img1234.jpg",
        "DSC00012.jpg",
        "20240131_120000.jpg",
        "0.png",
        "---.png",
        "Screenshot 2024-01-31 12.00.00.png",
        "3f2a9c81d0e44b5c.png",
        "untitled (3).png",
        "",
    ],
)
def test_names_that_machines_give_say_nothing(file):
    assert words(file) == ""


def test_as_a_source(subject):
    assert FileName().captions([subject("IMG_1.png"), subject("cat.png")]) == [None, "cat"]
