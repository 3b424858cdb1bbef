import numpy as np
from PIL import Image

from blockwise_lora.imagesets.likeness.descriptors import PROBES, Probe, describe
from blockwise_lora.imagesets.likeness.looks import looks_of
from blockwise_lora.imagesets.likeness.registration import register, warp


def smooth(seed, side=48):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def test_a_known_movement_is_found():
    image = np.stack([smooth(seed) for seed in range(4)])
    truth = np.array([[1.04, -0.03, 0.02], [0.03, 0.97, -0.03]], np.float32)
    moved, _ = warp(image[..., None], np.broadcast_to(truth, (4, 2, 3)))
    template = moved[..., 0].reshape(image.shape) * 0.8 + 20  # a tint does not matter
    start = np.broadcast_to(Probe().matrix(), (4, 2, 3))
    transforms, score = register(image, template, start, steps=8)
    assert np.abs(transforms - truth).max() < 0.01
    assert score.min() > 0.99


def test_the_start_is_kept_where_nothing_is_better():
    plain = np.zeros((1, 48, 48), np.float32)
    start = Probe(degrees=2.5).matrix()[None]
    transforms, score = register(plain, smooth(0)[None], start, steps=3)
    assert np.isfinite(transforms).all()
    assert score[0] < 0.5


def test_vectors_of_probes_are_those_of_moved_pictures():
    view = smooth(1)
    views = np.repeat(view[None, ..., None], 3, axis=3).astype(np.uint8)
    for index, probe in enumerate(PROBES):
        moved, _ = warp(views.astype(np.float32), probe.matrix()[None])
        expected = describe(moved.reshape(1, 48, 48, 3))[0, 0]
        assert describe(views)[index, 0] @ expected > 0.9999


def test_borders_are_cut_off_but_no_pictures(textured):
    framed = Image.new("RGB", (120, 100), "black")
    framed.paste(Image.new("RGB", (100, 80), "white"), (10, 10))
    framed.paste(textured(0, 60, 60), (30, 20))
    looks = looks_of(framed)
    assert looks.views.shape == (2, 48, 48, 3)
    assert np.allclose(looks.extent[1], (0.5, 0.6), atol=0.02)
    assert len(looks_of(textured(1, 100, 100)).views) == 1
    dot = Image.new("RGB", (100, 100), "white")
    dot.putpixel((50, 50), (0, 0, 0))
    assert len(looks_of(dot).views) == 1
