"""What is kept of a picture while copies are looked for."""

import numpy as np
import pytest
from PIL import Image

from blockwise_lora.imagesets.likeness import Looks, looks_of


def test_borders_are_cut_off_but_no_pictures(textured):
    framed = Image.new("RGB", (120, 100), "black")
    framed.paste(Image.new("RGB", (100, 80), "white"), (10, 10))
    framed.paste(textured(0, 60, 60), (30, 20))
    looks = looks_of(framed)
    assert looks.views.shape == (2, 48, 48, 3)
    assert np.allclose(looks.extent[1], (0.5, 0.5), atol=0.02)  # of the longer side
    assert len(looks_of(textured(1, 100, 100)).views) == 1
    dot = Image.new("RGB", (100, 100), "white")
    dot.putpixel((50, 50), (0, 0, 0))
    assert len(looks_of(dot).views) == 1


def test_of_two_frames_both_are_cut_off(textured):
    framed = Image.new("RGB", (120, 120), (10, 200, 10))
    framed.paste((250, 250, 250), (6, 6, 114, 114))
    framed.paste(textured(0, 60, 80), (30, 20))
    assert np.allclose(looks_of(framed).extent, [[1, 1], [60 / 120, 80 / 120]], atol=0.02)


def test_a_border_on_three_sides_is_cut_off(textured):
    picture = Image.new("RGB", (100, 100), "black")
    picture.paste(textured(3, 80, 60), (20, 20))
    assert np.allclose(looks_of(picture).extent, [[1, 1], [0.8, 0.6]], atol=0.02)


@pytest.mark.parametrize("size", [(90, 60), (64, 64)])
def test_looks_are_packed_and_unpacked(textured, face, size):
    for image in (textured(0, *size), face()):
        looks = looks_of(image)
        again = Looks.unpacked(looks.packed())
        assert np.array_equal(again.views, looks.views)
        assert np.array_equal(again.extent, looks.extent)


@pytest.mark.parametrize("cut", [1, 48 * 48 * 3, 48 * 48 * 3 + 8])
def test_looks_that_were_cut_short_are_refused(textured, cut):
    data = looks_of(textured(0)).packed()
    with pytest.raises(ValueError, match="bytes are no looks"):
        Looks.unpacked(data[:-cut])
