"""From a picture of any shape to what is trained on: a square, or one of a few shapes."""

from dataclasses import dataclass, replace
from typing import Literal

from PIL import Image, ImageColor

from blockwise_lora.imagesets.errors import ImageSetError

Square = Literal["pad", "crop", "focal", "buckets"]

_BUCKET_STEPS = 8  # a side of a bucket is a multiple of an eighth of the resolution
_LONGEST = 2  # a bucket's side is at most as many resolutions long


@dataclass(frozen=True)
class Framing:
    """How a picture becomes what is trained on.

    Attributes:
        resolution: side of the square in pixels.
        square: `pad` keeps the whole picture and fills the rest with `background`; `crop` keeps
            the largest square in the centre; `focal` the largest square around `focus`; `buckets`
            no square but the nearest of a few shapes that have at most as many pixels as one.
        background: colour of the padding and of what lies behind transparent pixels, in any
            notation that Pillow knows: white, #ffcc00, rgb(12,34,56).
        focus: what `focal` and `buckets` keep in view, (x, y) from 0 to 1.
    """

    resolution: int
    square: Square = "pad"
    background: str = "white"
    focus: tuple[float, float] = (0.5, 0.5)

    def on(self, image: Image.Image) -> "Framing":
        """The framing of one picture: with its focal point, where that is asked for."""
        if self.square not in ("focal", "buckets"):
            return self
        from blockwise_lora.imagesets.saliency import focal_point

        return replace(self, focus=focal_point(image))

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of a picture once it is framed."""
        if self.square != "buckets":
            return self.resolution, self.resolution
        return min(
            _buckets(self.resolution),
            key=lambda size: (abs(size[0] / size[1] - width / height) * height / width, -size[0]),
        )

    def scale(self, width: int, height: int) -> float:
        """The factor a picture is resized by; above 1 it would be upscaled."""
        target = self.size(width, height)
        choose = min if self.square == "pad" else max
        return choose(target[0] / width, target[1] / height)

    def apply(self, image: Image.Image) -> Image.Image:
        """Frame an RGB picture; one that has the right size is left as it is."""
        target = self.size(*image.size)
        if image.size == target:
            return image
        if self.square != "pad":
            image = _cropped(image, target, self.focus)
        scale = min(target[0] / image.width, target[1] / image.height)
        # Lanczos keeps thin strokes when shrinking, bicubic rings less when enlarging.
        method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        if self.square == "buckets":
            return image.resize(target, method)
        size = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.resize(size, method)
        if image.size == target:
            return image
        canvas = Image.new("RGB", target, colour(self.background))
        canvas.paste(image, tuple((self.resolution - side) // 2 for side in image.size))
        return canvas

    def mask(self, mask: Image.Image) -> Image.Image:
        """Frame a picture's greyscale mask like the picture; padding is no part of either."""
        return replace(self, background="black").apply(mask.convert("RGB")).convert("L")


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


def _buckets(resolution: int) -> list[tuple[int, int]]:
    """Shapes of at most resolution^2 pixels that are as large as their steps allow."""
    step = max(8, resolution // _BUCKET_STEPS // 8 * 8)
    sides = range(step, _LONGEST * resolution + 1, step)
    return [
        (width, height)
        for width in sides
        if (height := min(resolution**2 // width // step * step, _LONGEST * resolution)) >= step
    ]


def _cropped(
    image: Image.Image, target: tuple[int, int], focus: tuple[float, float]
) -> Image.Image:
    """The largest part of the target's shape, as near to the focus as the edges allow."""
    scale = min(image.width / target[0], image.height / target[1])
    size = [max(1, min(side, round(t * scale))) for side, t in zip(image.size, target, strict=True)]
    left, top = (
        min(max(round(centre * side - part / 2 - 1e-6), 0), side - part)
        for centre, side, part in zip(focus, image.size, size, strict=True)
    )
    return image.crop((left, top, left + size[0], top + size[1]))
