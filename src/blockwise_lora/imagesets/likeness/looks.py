"""A picture shrunk to what tells it from others: once whole, once without its plain border."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 48
"""Side of a view in pixels: fine enough for the mouth of a face that fills the picture."""

_WORKING_SIDE = 96  # pixels; borders are looked for in a picture of one to two times this side
_PLAIN = 12  # 0 to 255; a row that nowhere differs more from the border's colour belongs to it
_LEAST = 0.25  # of a side that must be left; what is smaller is a dot on a ground, not a border


@dataclass(frozen=True)
class Looks:
    """One picture's views.

    Attributes:
        views: (v, 48, 48, 3) uint8, squeezed to squares; v is 2 where a plain border was cut off.
        extent: (v, 2) float32, the width and height of what a view shows, as parts of the
            picture's.
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
    factor = max(1, min(image.size) // _WORKING_SIDE)
    small = image.reduce(factor) if factor > 1 else image
    whole = (0, 0, *small.size)
    boxes = [whole]
    box = _without_border(np.asarray(small))
    if box != whole:
        boxes.append(box)
    extent = [((b[2] - b[0]) / small.width, (b[3] - b[1]) / small.height) for b in boxes]
    return Looks(np.stack([_shrunk(small, b) for b in boxes]), np.array(extent, np.float32))


def _shrunk(image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def _without_border(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) inside of plain borders; of two, one within the other."""
    height, width = pixels.shape[:2]
    top, bottom, left, right = 0, height, 0, width
    for _ in range(2):
        part = pixels[top:bottom, left:right]
        edge = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
        ground = np.median(edge, axis=0)
        low = np.clip(ground - _PLAIN, 0, 255).astype(np.uint8)
        high = np.clip(ground + _PLAIN, 0, 255).astype(np.uint8)
        other = ((part < low) | (part > high)).any(axis=2)
        rows, columns = np.flatnonzero(other.any(axis=1)), np.flatnonzero(other.any(axis=0))
        if not len(rows):
            break
        top, bottom = top + int(rows[0]), top + int(rows[-1]) + 1
        left, right = left + int(columns[0]), left + int(columns[-1]) + 1
    if bottom - top < _LEAST * height or right - left < _LEAST * width:
        return 0, 0, width, height
    return left, top, right, bottom
