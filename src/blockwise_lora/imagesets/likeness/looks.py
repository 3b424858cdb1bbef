"""A picture shrunk to what tells it from others: once whole, once without its plain border."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops

SIDE = 48
"""Side of a view in pixels: fine enough for the mouth of a face that fills the picture."""

_WORKING_SIDE = 64  # pixels; borders are looked for in a picture of one to two times this side
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
    factor = max(1, min(image.size) // _WORKING_SIDE)
    small = image.reduce(factor) if factor > 1 else image
    whole = (0, 0, *small.size)
    boxes = [whole]
    box = _without_border(small)
    if box != whole:
        boxes.append(box)
    extent = np.array([(b[2] - b[0], b[3] - b[1]) for b in boxes], np.float32) / max(small.size)
    return Looks(np.stack([_shrunk(small, b) for b in boxes]), extent)


def _shrunk(image: Image.Image, box: tuple[int, int, int, int]) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box))


def _without_border(image: Image.Image) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) inside of plain borders; of two, one within the other."""
    whole = box = (0, 0, *image.size)
    for _ in range(2):
        part = image if box == whole else image.crop(box)
        ground = _ground(part)
        if ground is None:
            break
        # Pillow's arithmetic is several times as fast as NumPy's on bytes.
        other = ImageChops.difference(part, Image.new("RGB", part.size, ground))
        inner = ImageChops.subtract(other, Image.new("RGB", part.size, (_PLAIN,) * 3)).getbbox()
        if inner is None:
            break
        box = (box[0] + inner[0], box[1] + inner[1], box[0] + inner[2], box[1] + inner[3])
    if min((box[2] - box[0]) / image.width, (box[3] - box[1]) / image.height) < _LEAST:
        return whole
    return box


def _ground(image: Image.Image) -> tuple[int, int, int] | None:
    """The colour of a plain border; None where none of the four sides has one."""
    pixels = np.asarray(image)
    sides = pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]
    edge = np.concatenate(sides)
    ground = np.partition(edge, len(edge) // 2, axis=0)[len(edge) // 2].astype(np.int16)
    if any((np.abs(side - ground) <= _PLAIN).all() for side in sides):
        return tuple(ground.tolist())
    return None
