"""From a picture of any shape to a square of the training resolution."""

from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageColor

from blockwise_lora.imagesets.errors import ImageSetError


@dataclass(frozen=True)
class Framing:
    """How a picture becomes the square that is trained on.

    Attributes:
        resolution: side of the square in pixels.
        square: `pad` keeps the whole picture and fills the rest with `background`; `crop` keeps
            the largest square in the centre.
        background: colour of the padding and of what lies behind transparent pixels, in any
            notation that Pillow knows: white, #ffcc00, rgb(12,34,56).
    """

    resolution: int
    square: Literal["pad", "crop"] = "pad"
    background: str = "white"

    def scale(self, width: int, height: int) -> float:
        """The factor a picture is resized by; above 1 it would be upscaled."""
        side = max(width, height) if self.square == "pad" else min(width, height)
        return self.resolution / side

    def apply(self, image: Image.Image) -> Image.Image:
        """Square and resize an RGB picture; one that has the right size is left as it is."""
        if image.size == (self.resolution, self.resolution):
            return image
        if self.square == "crop":
            image = _centre(image)
        scale = self.scale(*image.size)
        size = tuple(max(1, round(side * scale)) for side in image.size)
        # Lanczos keeps thin strokes when shrinking, bicubic rings less when enlarging.
        method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        image = image.resize(size, method)
        if image.size == (self.resolution, self.resolution):
            return image
        canvas = Image.new("RGB", (self.resolution, self.resolution), colour(self.background))
        canvas.paste(image, tuple((self.resolution - side) // 2 for side in image.size))
        return canvas


def colour(name: str) -> tuple[int, int, int]:
    """Red, green and blue (0 to 255) of a colour's name.

    Raises:
        ImageSetError: Pillow does not know the colour.
    """
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError:
        raise ImageSetError(
            f"background: {name!r} is no colour; write a name such as white, or #rrggbb"
        ) from None


def _centre(image: Image.Image) -> Image.Image:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
