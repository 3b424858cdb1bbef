from types import SimpleNamespace

import numpy as np
import pytest

from blockwise_lora.emoji.figures import (
    histogram_similarity,
    neighbour_accuracy,
    pixel_similarity,
    psnr,
)


class Off:
    """An autoencoder that is wrong by a known amount, in [-1, 1] units."""

    def __init__(self, error):
        self.error = error

    def encode(self, x):
        return SimpleNamespace(latent_dist=SimpleNamespace(mean=x))

    def decode(self, x):
        return SimpleNamespace(sample=x + self.error)


def test_psnr_by_hand():
    grey = np.full((3, 64, 64, 3), 100, np.uint8)
    # An error of 0.2 in [-1, 1] is 0.1 in [0, 1]: -10 log10(0.01) = 20 dB.
    assert psnr(Off(0.2), grey)["all_pixels"] == pytest.approx(20.0, abs=1e-3)


def test_psnr_of_ink_leaves_white_out():
    half = np.full((1, 64, 64, 3), 255, np.uint8)
    half[:, :, :32] = 100
    figures = psnr(Off(0.2), half)  # white stays white, since what is decoded is clipped
    assert figures["non_white"] == pytest.approx(20.0, abs=1e-3)
    assert figures["all_pixels"] == pytest.approx(20.0 + 10 * np.log10(2), abs=1e-3)


def test_neighbours_may_not_be_barred_ones():
    labels = ["a", "a", "b", "b"]
    similarity = np.array([[9, 8, 7, 1], [8, 9, 1, 7], [7, 1, 9, 2], [1, 7, 2, 9]], float)
    free = np.zeros((4, 4), bool)
    # a -> a, a -> a, but both b are nearest to an a.
    assert neighbour_accuracy(similarity, labels, free) == 50.0
    barred = np.array([[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool)
    assert neighbour_accuracy(similarity, labels, barred) == 0.0


def test_every_label_weighs_the_same():
    labels = ["a"] * 4 + ["b"] * 2
    similarity = np.ones((6, 6)) * 0.1
    similarity[:4, :4] = 0.9  # all four a are right
    similarity[4:, :4] = 0.8  # both b are wrong
    assert neighbour_accuracy(similarity, labels, np.zeros((6, 6), bool)) == 50.0


def test_baselines_find_the_equal_picture():
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    pixels[2] = pixels[0]
    for similarity in (pixel_similarity(pixels), histogram_similarity(pixels)):
        masked = np.where(np.eye(4, dtype=bool), -np.inf, similarity)
        assert masked[0].argmax() == 2


def test_histogram_of_equal_colours_ignores_places():
    flat = np.zeros((2, 64, 64, 3), np.uint8)
    flat[0, :32], flat[1, 32:] = 255, 255
    assert histogram_similarity(flat)[0, 1] == pytest.approx(1.0)
    assert pixel_similarity(flat)[0, 1] < -50
