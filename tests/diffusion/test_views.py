import dataclasses

import numpy as np
import pytest
from PIL import Image

from blockwise_lora.diffusion.config import AugmentConfig
from blockwise_lora.diffusion.views import count, views
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_pictures


@pytest.fixture
def picture(tmp_path):
    """Left half red, right half blue, in steps of brightness from above."""
    folder = write_tiny_pictures(tmp_path / "set", 1)
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    pixels[:, :8, 0] = np.arange(100, 260, 10)[:, None].clip(max=255)
    pixels[:, 8:, 2] = 200
    Image.fromarray(pixels).save(folder / "0.png")
    return read_imagefolder(folder)[0]


def test_the_plain_picture_comes_first_and_alone(picture):
    (view,) = views(picture, AugmentConfig())
    assert np.array_equal(view.pixels.numpy(), np.array(picture.open()))
    assert view.mask is None and view.corner == (0, 0)


def test_a_flip_mirrors_left_and_right(picture):
    plain, flipped = views(picture, AugmentConfig(flip=True))
    assert np.array_equal(flipped.pixels.numpy(), plain.pixels.numpy()[:, ::-1])


def test_a_mirrored_crop_lies_where_it_does_in_the_mirrored_picture(tmp_path):
    """Left of the crop, the crop and left of its mirror image are the whole width."""
    ramp = np.zeros((16, 16, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.arange(0, 256, 16)
    folder = write_tiny_pictures(tmp_path / "ramp", 1)
    Image.fromarray(ramp).save(folder / "0.png")
    config = AugmentConfig(flip=True, variants=6, crop=0.5)
    shown = list(views(read_imagefolder(folder)[0], config))
    assert all(view.corner == (0, 0) for view in shown[:2])
    for plain, flipped in zip(shown[2::2], shown[3::2], strict=True):
        step = (plain.pixels[0, 12, 0].item() - plain.pixels[0, 4, 0].item()) / 8
        assert plain.corner[1] + 16 + flipped.corner[1] == pytest.approx(16 * 16 / step, abs=2)
        assert plain.corner[0] == flipped.corner[0]


def test_crops_zoom_in_within_the_picture(picture):
    config = AugmentConfig(variants=8, crop=0.5)
    _, *crops = views(picture, config)
    assert len(crops) == 8 and all(c.pixels.shape == (16, 16, 3) for c in crops)
    tops = [c.pixels[0, 0, 0].item() for c in crops]
    assert min(tops) >= 95 and max(tops) > 110 and len(set(tops)) > 4
    for crop in crops:
        assert crop.pixels[:, :, 1].max() == 0, "no colour from outside"
        assert all(0 <= c <= 17 for c in crop.corner), "at most as far as half of a doubled picture"


def test_colours_change_and_shapes_do_not(picture):
    _, *coloured = views(picture, AugmentConfig(variants=6, colour=0.3))
    blue = [c.pixels[0, 12, 2].item() for c in coloured]
    assert len(set(blue)) > 3 and all(120 < b <= 255 for b in blue)
    assert all(c.pixels[0, 12, 0] < 120 for c in coloured)


def test_copies_are_the_same_in_every_run(picture):
    config = AugmentConfig(flip=True, variants=2, crop=0.7, colour=0.2)
    first, second = (list(views(picture, config)) for _ in range(2))
    assert len(first) == count(config) == 6
    assert all((a.pixels == b.pixels).all() for a, b in zip(first, second, strict=True))


def test_masks_are_cut_like_their_pictures(picture, tmp_path):
    from blockwise_lora.imagesets.images import Mask, pixel_hash

    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    mask.save(tmp_path / "mask.png")
    masked = dataclasses.replace(picture, mask=Mask(tmp_path / "mask.png", pixel_hash(mask)))
    for view in views(masked, AugmentConfig(flip=True, variants=4, crop=0.6)):
        red = view.pixels[:, :, 0] > view.pixels[:, :, 2]
        # Interpolation blurs a column or two at the edge.
        assert ((view.mask > 127) == red).float().mean() > 0.9
