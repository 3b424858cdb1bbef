from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from blockwise_lora.judges.dino import load_dino
from blockwise_lora.judges.style import (
    LEVELS,
    StyleSpace,
    palette,
    style_statistics,
    token_statistics,
)


def test_statistics_are_means_and_deviations_per_channel():
    tokens = torch.tensor([[[1.0, 10.0], [3.0, 10.0]]])
    assert token_statistics(tokens).tolist() == [[2.0, 10.0, 1.0, 0.0]]


def test_statistics_forget_where_the_patches_are():
    tokens = torch.randn(2, 9, 4)
    shuffled = tokens[:, torch.randperm(9)]
    assert torch.allclose(token_statistics(tokens), token_statistics(shuffled), atol=1e-6)


def test_a_palette_is_the_shares_of_colours():
    picture = Image.new("RGB", (8, 4), "white")
    picture.paste((255, 0, 0), (0, 0, 2, 4))
    shares = palette(picture) ** 2
    assert shares.sum() == pytest.approx(1)
    assert (shares[(LEVELS - 1) * LEVELS**2], shares[-1]) == pytest.approx((0.25, 0.75))


def test_no_shift_of_tone_changes_the_palette_at_once():
    flats = [palette(Image.new("RGB", (4, 4), (v, 120, 120))) for v in range(60, 200)]
    assert all(one @ two > 0.99 for one, two in pairwise(flats))
    assert flats[0] @ flats[-1] < 0.1


def test_a_single_stray_pixel_is_no_colour():
    picture = shape("ellipse", outlined=False, corner=8)
    stray = picture.copy()
    stray.putpixel((2, 2), (0, 255, 0))
    assert np.array_equal(palette(picture), palette(stray))


def statistics_of(strokes: np.ndarray) -> np.ndarray:
    """Statistics of pictures with equal palettes."""
    return np.hstack([strokes, np.full((len(strokes), LEVELS**3), LEVELS**-1.5)])


def test_groups_weigh_the_same_however_large():
    many, few = np.full((30, 2), 1.0), np.full((2, 2), 3.0)
    space = StyleSpace.around(statistics_of(many), statistics_of(few))
    assert np.allclose(space.centre[:2], 2)
    assert np.allclose(space.vectors(statistics_of(few))[:, :2], np.sqrt(0.5))


def test_what_varies_within_a_group_counts_less_than_what_tells_groups_apart():
    rng = np.random.default_rng(0)
    one, two = (rng.normal(size=(20, 2)) * (5, 0.2) + (0, y) for y in (-1, 1))
    space = StyleSpace.around(statistics_of(one), statistics_of(two))
    vectors = space.vectors(statistics_of(np.array([[2, 1], [-2, 1], [2, -1.0]])))
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_vectors_have_unit_length_and_the_centre_is_no_trouble():
    reference = statistics_of(np.eye(4))
    space = StyleSpace.around(reference)
    vectors = space.vectors(np.vstack([reference, space.centre[None]]))
    assert np.allclose(np.linalg.norm(vectors[:4], axis=1), 1, atol=1e-6)
    assert np.allclose(vectors[4], 0)


def test_a_single_reference_makes_a_space():
    one = statistics_of(np.ones((1, 3)))
    assert np.isfinite(StyleSpace.around(one, one + 1).vectors(one + 2)).all()


def shape(kind: str, outlined: bool, corner: int) -> Image.Image:
    picture = Image.new("RGB", (64, 64), "white")
    draw = getattr(ImageDraw.Draw(picture), kind)
    box = (corner, corner, corner + 36, corner + 36)
    draw(box, outline="black", width=3) if outlined else draw(box, fill=(200, 60, 60))
    return picture


def test_the_same_hand_is_nearer_than_the_same_thing(judge_folders):
    pictures = [
        shape(kind, outlined, corner)
        for outlined in (True, False)
        for kind in ("ellipse", "rectangle")
        for corner in (8, 16)
    ]
    statistics = style_statistics(load_dino(judge_folders["dino"]), pictures)
    vectors = StyleSpace.around(statistics[:4], statistics[4:]).vectors(statistics)
    cosines = vectors @ vectors.T
    same_hand = cosines[:2, 2:4].mean()  # circles and squares, outlined
    same_thing = cosines[:2, 4:6].mean()  # circles, outlined and filled
    assert same_hand > same_thing + 0.2
