"""A picture as it is, mirrored, and in copies that chance has cropped and coloured.

What a copy looks like depends on the picture and its number alone, so all runs share the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from blockwise_lora.diffusion.config import AugmentConfig
from blockwise_lora.diffusion.draws import generator_for
from blockwise_lora.imagesets import Picture


@dataclass(frozen=True, eq=False)
class View:
    """One way of showing a picture.

    Attributes:
        pixels: uint8, (height, width, 3).
        mask: what counts, uint8, (height, width); None: all.
        corner: top and left of the crop in the whole picture, in pixels of the view.
    """

    pixels: Tensor
    mask: Tensor | None
    corner: tuple[int, int] = (0, 0)


def count(config: AugmentConfig) -> int:
    """Views of a picture."""
    return (1 + config.variants) * (1 + config.flip)


def views(picture: Picture, config: AugmentConfig) -> Iterator[View]:
    """All views of a picture, always in the same order, the plain one first."""
    image, mask = picture.open(), picture.open_mask()
    for number in range(1 + config.variants):
        shown, hidden, corner, mirrored_corner = image, mask, (0, 0), (0, 0)
        if number:
            box, factors = _draw(picture, number, config)
            shown, hidden = (_crop(part, box) for part in (image, mask))
            shown = _colour(shown, factors)
            corner, mirrored_corner = _corners(box, image.size)
        yield _view(shown, hidden, corner)
        if config.flip:
            mirrored = None if hidden is None else ImageOps.mirror(hidden)
            yield _view(ImageOps.mirror(shown), mirrored, mirrored_corner)


def _draw(
    picture: Picture, number: int, config: AugmentConfig
) -> tuple[tuple[float, float, float, float], list[float]]:
    """A crop's box (left, top, right, bottom) in pixels, and three factors of colour."""
    generator = generator_for(number, "view", picture.sha256, config.crop, config.colour)
    size, across, down, *colours = torch.rand(6, generator=generator).tolist()
    side = config.crop + (1 - config.crop) * size
    width, height = picture.width * side, picture.height * side
    left, top = (picture.width - width) * across, (picture.height - height) * down
    factors = [1 + config.colour * (2 * value - 1) for value in colours]
    return (left, top, left + width, top + height), factors


def _crop(image: Image.Image | None, box: tuple[float, float, float, float]) -> Image.Image | None:
    return image and image.resize(image.size, Image.Resampling.LANCZOS, box=box)


def _colour(image: Image.Image, factors: list[float]) -> Image.Image:
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        image = enhance(image).enhance(factor)
    return image


def _corners(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Top and left of a crop, and of its mirror image in the mirrored picture."""
    width = size[0]
    zoom = width / (box[2] - box[0])
    top, left = round(box[1] * zoom), round(box[0] * zoom)
    return (top, left), (top, round(width * zoom) - left - width)


def _view(image: Image.Image, mask: Image.Image | None, corner: tuple[int, int]) -> View:
    hidden = None if mask is None else torch.from_numpy(np.array(mask))
    return View(torch.from_numpy(np.array(image)), hidden, corner)
