import numpy as np
from PIL import Image

from blockwise_lora.imagesets.likeness.descriptors import Tangents, aligned, describe, luma
from blockwise_lora.imagesets.likeness.registration import register, warp


def smooth(seed, side=48):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def test_a_known_movement_is_found():
    image = np.stack([smooth(seed) for seed in range(4)])
    truth = np.array([[1.04, -0.03, 0.02], [0.03, 0.97, -0.03]], np.float32)
    moved, _ = warp(image[:, None], np.broadcast_to(truth, (4, 2, 3)))
    template = moved.reshape(image.shape) * 0.8 + 20  # a tint does not matter
    start = np.broadcast_to(np.eye(2, 3, dtype=np.float32), (4, 2, 3))
    transforms, score = register(image, template, start, steps=8)
    assert np.abs(transforms - truth).max() < 0.01
    assert score.min() > 0.99


def test_the_start_is_kept_where_nothing_is_better():
    plain = np.zeros((1, 48, 48), np.float32)
    start = np.array([[[1, -0.04, 0], [0.04, 1, 0]]], np.float32)
    transforms, score = register(plain, smooth(0)[None], start, steps=3)
    assert np.isfinite(transforms).all()
    assert score[0] < 0.5


def test_a_small_movement_follows_from_the_vectors():
    grey = np.stack([smooth(seed) for seed in range(5)])
    truth = np.array([[1.03, -0.03, 0.01], [0.03, 0.98, -0.02]], np.float32)
    moved, _ = warp(grey[:, None], np.broadcast_to(truth, (5, 2, 3)))
    views, moved = (v.reshape(5, 48, 48, 1).repeat(3, 3).astype(np.uint8) for v in (grey, moved))
    before = (describe(views) * describe(moved)).sum(axis=1)
    after, found = aligned(Tangents.of(luma(views)), Tangents.of(luma(moved)))
    assert (1 - after < 0.2 * (1 - before)).all()
    assert np.abs(found - truth).max() < 0.02


def test_floats_stay_short():
    images = np.stack([smooth(seed) for seed in range(2)])[:, None]
    moved, _ = warp(images, np.broadcast_to(np.eye(2, 3, dtype=np.float32), (2, 2, 3)))
    assert moved.dtype == np.float32
    assert np.allclose(moved, images.reshape(2, 1, -1), atol=0.2)
