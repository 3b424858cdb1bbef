"""What the user decides about curation."""

from dataclasses import dataclass, field
from typing import Literal

from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.framing import Framing, Square, colour
from blockwise_lora.imagesets.likeness import Limits

Action = Literal["off", "flag", "drop"]


@dataclass(frozen=True)
class Check:
    """A number that pictures are judged by.

    Attributes:
        limit: what lies beyond it is found fault with; the unit is the check's.
        action: `flag` writes it into the table, `drop` leaves the picture out as well.
    """

    limit: float
    action: Action = "flag"


@dataclass(frozen=True)
class Checks:
    """What is looked for in each picture; each with its number in the table.

    Attributes:
        blurred: sharpness below the limit. Deviation of the brightness's Laplacian over that of
            the brightness, at a shorter side of at most 256 pixels: photographs have 0.1 to 1.5,
            softened by 3 pixels and more below 0.04.
        dark: the brightness that 95 of 100 pixels are below is itself below the limit, 0 to 255.
        aspect: the longer side is more than the limit times the shorter.
        outlier: likeness to the set below the limit, in deviations of the set's own; needs the
            judge.
        marked: how far a picture is from the set's clean ones, 0, towards copies of them with
            writing or a watermark put over them, 1; needs the judge, see `marks`.
        alike: the judge's cosine of two pictures that are no copies by their pixels is at least
            this.
    """

    blurred: Check = Check(0.04)
    dark: Check = Check(40)
    aspect: Check = Check(3)
    outlier: Check = Check(-3)
    marked: Check = Check(0.5)
    alike: Check = Check(0.995)


@dataclass(frozen=True)
class DuplicateRules:
    """Which pictures count as copies of another; equal pixels always do.

    Attributes:
        near: whether copies that were encoded, resized, cropped, framed, turned, tinted or marked
            anew count.
        mirrored: whether mirror images count, too.
        limits: how far a copy may be from its original.
    """

    near: bool = True
    mirrored: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class CurationConfig:
    """Which pictures are kept and how they are prepared.

    Attributes:
        resolution: side of the prepared squares in pixels; a multiple of 8.
        square: how pictures of another shape are framed, see `Framing`.
        background: behind transparent pixels and in the padding.
        alpha: what becomes of transparency: `flatten` lays the picture on the background, `mask`
            keeps besides what of it was there, for a training that looks at nothing else.
        upscale: whether a picture too small for `resolution` is enlarged; else it is dropped.
        min_side: a shorter side below this many pixels drops a picture in any case.
        max_megapixels: a larger picture is dropped before it is unpacked.
        checks: what else is looked for.
        duplicates: what counts as a copy.
        judge: a CLIP for the checks that need one: a folder, or ARCHITECTURE/TAG of open_clip;
            None leaves those checks out.
        balance: whether pictures of small sub-folders are shown more often, so that each
            sub-folder counts alike; no picture more than `most_repeats` times.
        most_repeats: see `balance`.
        workers: processes that decode; None takes one a core.

    Raises:
        ValueError: a value is out of its range.
    """

    resolution: int = 64
    square: Square = "pad"
    background: str = "white"
    alpha: Literal["flatten", "mask"] = "flatten"
    upscale: bool = False
    min_side: int = 16
    max_megapixels: float = 100.0
    checks: Checks = field(default_factory=Checks)
    duplicates: DuplicateRules = field(default_factory=DuplicateRules)
    judge: str | None = None
    balance: bool = False
    most_repeats: int = 10
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
            "most_repeats is at least 1": self.most_repeats >= 1,
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
