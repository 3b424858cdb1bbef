"""A picture shrunk to what tells it from others: once whole, once without its plain border."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 48
"""Side of a view in pixels: fine enough for the mouth of a face that fills the picture."""

WORKING_SIDE = 64
"""Borders are looked for in a picture with a shorter side of one to two times as many pixels."""

_PLAIN = 12  # 0 to 255; a row that nowhere differs more from the border's colour belongs to it
_LEAST = 0.25  # of a side that must be left; what is smaller is a dot on a ground, not a border


@dataclass(frozen=True)
class Looks:
    """One picture's views.

    Attributes:
        views: (v, 48, 48, 3) uint8, squeezed to squares; v is 2 where a plain border was cut off.
        extent: (v, 2) float32, the width and height of what a view shows, as parts of the longer
            side of the picture.
    """

    views: np.ndarray
    extent: np.ndarray

    @classmethod
    def of(cls, data: bytes, extent: np.ndarray) -> "Looks":
        """Views from their bytes.

        Raises:
            ValueError: the bytes are damaged.
        """
        return cls(np.frombuffer(data, np.uint8).reshape(len(extent), SIDE, SIDE, 3), extent)


def looks_of(image: Image.Image) -> Looks:
    """Shrink an RGB picture to its looks."""
    factor = max(1, min(image.size) // WORKING_SIDE)
    small = image.reduce(factor) if factor > 1 else image
    whole = (0, 0, *small.size)
    box = _without_border(np.asarray(small))
    boxes = [whole] if box == whole else [whole, box]
    extent = np.array([(b[2] - b[0], b[3] - b[1]) for b in boxes], np.float32) / max(small.size)
    views = np.empty((len(boxes), SIDE, SIDE, 3), np.uint8)
    for view, part in zip(views, boxes, strict=True):
        view[:] = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=part)
    return Looks(views, extent)


def _without_border(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) inside of plain borders; of two, one within the other."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = whole = (0, 0, width, height)
    for _ in range(2):
        part = pixels[top:bottom, left:right]
        ground = _ground(part)
        if ground is None:
            break
        rows, columns = _differing(part, *ground)
        if not rows.any():
            break
        right, bottom = right - int(columns[::-1].argmax()), bottom - int(rows[::-1].argmax())
        left, top = left + int(columns.argmax()), top + int(rows.argmax())
    if min((right - left) / width, (bottom - top) / height) < _LEAST:
        return whole
    return left, top, right, bottom


def _ground(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The least and the most that a plain border has; None where none of the four sides is one."""
    sides = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    edge = np.concatenate(sides)
    middle = len(edge) // 2
    ground = np.partition(edge, middle, axis=0)[middle].astype(np.int16)
    least = np.maximum(ground - _PLAIN, 0).astype(np.uint8)
    most = np.minimum(ground + _PLAIN, 255).astype(np.uint8)
    # Below the least, bytes turn over and are large.
    apart = edge - least > most - least
    width = pixels.shape[1]
    for side in (apart[:width], apart[width : 2 * width], *np.split(apart[2 * width :], 2)):
        if not side.any():
            return least, most
    return None


def _differing(
    pixels: np.ndarray, least: np.ndarray, most: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which rows and which columns have a pixel outside of a range of colours."""
    height, width = pixels.shape[:2]
    # Whole rows of bytes at once: NumPy is slow on axes of three.
    flat = pixels.reshape(height, width * 3)
    apart = flat - np.tile(least, width) > np.tile(most - least, width)
    return apart.any(axis=1), apart.any(axis=0).reshape(width, 3).any(axis=1)
