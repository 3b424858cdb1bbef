import numpy as np
import pytest
from PIL import Image

from blockwise_lora.imagesets import ImageSetError
from blockwise_lora.imagesets.framing import Framing, colour


def stripes(width, height):
    """Red on the left third, green in the middle, blue on the right."""
    image = Image.new("RGB", (width, height), (0, 255, 0))
    image.paste((255, 0, 0), (0, 0, width // 3, height))
    image.paste((0, 0, 255), (width - width // 3, 0, width, height))
    return image


def test_padding_keeps_the_whole_picture():
    framed = Framing(64, "pad", "#ffcc00").apply(stripes(192, 96))
    assert framed.size == (64, 64)
    assert framed.getpixel((32, 5)) == framed.getpixel((32, 60)) == (255, 204, 0)
    assert [framed.getpixel((x, 32)) for x in (3, 32, 60)] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
    ]


def test_cropping_keeps_the_centre():
    framed = Framing(64, "crop").apply(stripes(192, 64))
    assert framed.size == (64, 64)
    assert np.asarray(framed).reshape(-1, 3).tolist() == [[0, 255, 0]] * 64 * 64


def test_scale_says_who_would_be_enlarged():
    assert Framing(64, "pad").scale(64, 30) == 1
    assert Framing(64, "crop").scale(64, 32) == 2
    assert Framing(64, "pad").scale(128, 1) == 0.5


def test_extreme_shapes_and_right_sizes():
    assert Framing(64).apply(Image.new("RGB", (1000, 2))).size == (64, 64)
    image = stripes(64, 64)
    assert Framing(64).apply(image) is image
    assert Framing(64).apply(stripes(32, 32)).size == (64, 64)


def test_an_unknown_colour():
    with pytest.raises(ImageSetError, match="'whit' is no colour"):
        colour("whit")
