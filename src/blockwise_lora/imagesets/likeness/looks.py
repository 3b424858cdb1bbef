"""A picture shrunk to what tells it from others: once whole, once without its plain border."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 48
"""Side of a view in pixels: fine enough for the mouth of a face that fills the picture."""

WORKING_SIDE = 64
"""Borders are looked for in a picture with a shorter side of one to two times as many pixels."""

_VIEW, _EXTENT = SIDE * SIDE * 3, 2 * 4  # bytes of one view and of its extent
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

    def packed(self) -> bytes:
        """Extents, then pixels: what processes and files pass on faster than arrays."""
        return self.extent.astype(np.float32).tobytes() + self.views.tobytes()

    @classmethod
    def unpacked(cls, data: bytes) -> "Looks":
        """The inverse of `packed`.

        Raises:
            ValueError: the bytes are damaged.
        """
        count, rest = divmod(len(data), _EXTENT + _VIEW)
        if rest or not count:
            raise ValueError(f"{len(data)} bytes are no looks")
        extent = np.frombuffer(data, np.float32, 2 * count).reshape(count, 2)
        views = np.frombuffer(data, np.uint8, offset=_EXTENT * count)
        return cls(views.reshape(count, SIDE, SIDE, 3), extent)


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
        rows, columns = _differing(pixels[top:bottom, left:right])
        if (rows[0] and rows[-1] and columns[0] and columns[-1]) or not rows.any():
            break
        right, bottom = right - int(columns[::-1].argmax()), bottom - int(rows[::-1].argmax())
        left, top = left + int(columns.argmax()), top + int(rows.argmax())
    if min((right - left) / width, (bottom - top) / height) < _LEAST:
        return whole
    return left, top, right, bottom


def _differing(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which rows and which columns have a pixel that is not of the colour of most of the edge."""
    height, width = pixels.shape[:2]
    edge = np.concatenate((pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))
    middle = len(edge) // 2
    ground = np.partition(edge, middle, axis=0)[middle].tolist()
    least = [max(value - _PLAIN, 0) for value in ground]
    spans = [min(value + _PLAIN, 255) - low for value, low in zip(ground, least, strict=True)]
    # Whole rows of bytes at once: NumPy is slow on axes of three. Below the least, bytes turn over
    # and are large.
    flat = pixels.reshape(height, width * 3)
    apart = flat - _row(least, width) > _row(spans, width)
    return apart.any(axis=1), apart.any(axis=0).reshape(width, 3).any(axis=1)


def _row(colour: list[int], width: int) -> np.ndarray:
    return np.frombuffer(bytes(colour) * width, np.uint8)
