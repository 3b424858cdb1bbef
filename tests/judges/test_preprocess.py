import numpy as np
import pytest
import torch
from PIL import Image

from blockwise_lora.judges.preprocess import Preprocess, batches, on_white, unit_vectors

PLAIN = Preprocess(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_picture_of_the_right_size_is_only_normalised(pictures):
    tensor = PLAIN(pictures[:2])
    pixels = np.stack([np.asarray(p) for p in pictures[:2]]).transpose(0, 3, 1, 2)
    assert torch.allclose(tensor, torch.from_numpy(pixels / 127.5 - 1).float(), atol=1e-6)


def test_transparent_parts_are_white():
    red = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    red.putpixel((1, 0), (255, 0, 0, 0))
    assert np.asarray(on_white(red)).tolist() == [[[255, 0, 0], [255, 255, 255]]]


@pytest.mark.parametrize("size", [(64, 64), (20, 20), (640, 480), (65, 200), (1, 9)])
@pytest.mark.parametrize("crop", [1.0, 0.9])
def test_every_shape_becomes_the_square_input(size, crop):
    look = Preprocess(64, (0, 0, 0), (1, 1, 1), crop)
    assert look([Image.new("L", size, 128)]).shape == (1, 3, 64, 64)


def test_the_crop_keeps_the_middle():
    picture = Image.new("RGB", (30, 10), "white")
    picture.paste("black", (10, 0, 20, 10))
    assert PLAIN([picture])[..., 8:-8].max() < -0.9


def test_batches_cover_everything_once():
    assert [list(b) for b in batches([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]


def test_unit_vectors_have_length_one():
    vectors = unit_vectors(torch.randn(5, 8, dtype=torch.float16))
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
