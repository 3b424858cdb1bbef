"""What the user decides about curation."""

from dataclasses import dataclass
from typing import Literal

from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.framing import Framing, colour


@dataclass(frozen=True)
class CurationConfig:
    """Which pictures are kept and how they are prepared.

    Attributes:
        resolution: side of the prepared squares in pixels; a multiple of 8.
        square: `pad` or `crop`, see `Framing`.
        background: behind transparent pixels and in the padding.
        upscale: whether a picture too small for `resolution` is enlarged; else it is dropped.
        min_side: a shorter side below this many pixels drops a picture in any case.
        max_megapixels: a larger picture is dropped before it is unpacked.
        near_duplicates: whether near-duplicates are dropped; equal pixels always are.
        hash_bits: near-duplicates differ in at most this many of the perceptual hash's 64 bits
            (8x8 discrete cosine transform, https://www.hackerfactor.com/blog/?/archives/432).
        pixel_difference: and nowhere by more than this, 0 to 255, neither in brightness when
            shrunk to 32x32 nor in red, green or blue at 8x8. The largest local difference tells
            a smile from a frown on the same face, so that expressions of one character survive.
            Of the embedded world's cats, clocks and hearts all pairs with different drawings
            differ by 30 and more; JPEG at quality 75 changes 95 of 100 emoji of 64 pixels by 15
            or less, and pictures of 256 pixels by 3.
        workers: threads that decode; None takes one a core.

    Raises:
        ValueError: a value is out of its range.
    """

    resolution: int = 64
    square: Literal["pad", "crop"] = "pad"
    background: str = "white"
    upscale: bool = False
    min_side: int = 16
    max_megapixels: float = 100.0
    near_duplicates: bool = True
    hash_bits: int = 8
    pixel_difference: int = 18
    workers: int | None = None

    def __post_init__(self) -> None:
        checks = {
            "resolution is a multiple of 8, at least 8": (
                self.resolution >= 8 and self.resolution % 8 == 0
            ),
            "min_side is at least 2": self.min_side >= 2,
            "max_megapixels is above 0 and, Pillow's own limit, below 178": (
                0 < self.max_megapixels < 178
            ),
            "hash_bits is 0 to 64": 0 <= self.hash_bits <= 64,
            "pixel_difference is 0 to 255": 0 <= self.pixel_difference <= 255,
            "workers is at least 1": self.workers is None or self.workers >= 1,
        }
        mistakes = [rule for rule, holds in checks.items() if not holds]
        try:
            colour(self.background)
        except ImageSetError as error:
            mistakes.append(str(error))
        if mistakes:
            raise ValueError("\n".join(mistakes))

    @property
    def framing(self) -> Framing:
        return Framing(self.resolution, self.square, self.background)
