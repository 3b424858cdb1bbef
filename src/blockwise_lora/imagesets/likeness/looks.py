"""A picture shrunk to what tells it from others: once whole, once without its plain border."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops

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
    box = _without_border(small)
    if box != whole:
        boxes.append(box)
    extent = [((b[2] - b[0]) / small.width, (b[3] - b[1]) / small.height) for b in boxes]
    return Looks(np.stack([_shrunk(small, b) for b in boxes]), np.array(extent, np.float32))


def _shrunk(image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def _without_border(image: Image.Image) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) inside of plain borders; of two, one within the other."""
    box = (0, 0, *image.size)
    for _ in range(2):
        part = image if box == (0, 0, *image.size) else image.crop(box)
        edge = _edge(np.asarray(part))
        ground = np.sort(edge, axis=0)[len(edge) // 2]
        if (np.abs(edge.astype(np.int16) - ground).max(axis=1) > _PLAIN).all():
            break
        # Pillow's arithmetic is several times as fast as NumPy's on bytes.
        other = ImageChops.difference(part, Image.new("RGB", part.size, tuple(ground.tolist())))
        inner = ImageChops.subtract(other, Image.new("RGB", part.size, (_PLAIN,) * 3)).getbbox()
        if inner is None or inner == (0, 0, *part.size):
            break
        box = (box[0] + inner[0], box[1] + inner[1], box[0] + inner[2], box[1] + inner[3])
    if min((box[2] - box[0]) / image.width, (box[3] - box[1]) / image.height) < _LEAST:
        return 0, 0, *image.size
    return box


def _edge(pixels: np.ndarray) -> np.ndarray:
    """(n, 3): the outermost pixels."""
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
