"""One picture at a time: can it be used, and what does it look like."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import imagehash
import numpy as np
from PIL import Image

from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.decoding import DecodeError, decode
from blockwise_lora.imagesets.folder import Candidate, CaptionError
from blockwise_lora.imagesets.images import pixel_hash

LUMA_SIDE, COLOUR_SIDE = 32, 8


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of one input picture; one row of the table.

    Attributes:
        file: relative to the folder.
        reason: why it was dropped; empty where it was kept.
        number: the number behind the reason, in the unit that `detail` names.
        detail: the reason in words, and the remedy.
        notes: what was changed on the way in, such as "rotated by EXIF".
        width: of the original in pixels, upright; None where it could not be decoded.
        height: likewise.
        format: of the file.
        caption_source: where the caption is from, see `captioning`.
        own_caption: what the source says.
        caption: what is trained on.
        output: the file name in the curated set.
    """

    file: str
    reason: str = ""
    number: float | None = None
    detail: str = ""
    notes: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    format: str = ""
    caption_source: str = ""
    own_caption: str = ""
    caption: str = ""
    output: str = ""

    @property
    def kept(self) -> bool:
        return not self.reason


@dataclass(frozen=True)
class Screened:
    """A candidate with its verdict so far and, where it was decoded, its looks.

    Attributes:
        candidate: the file.
        verdict: kept, or dropped for what the picture itself shows.
        pixels: hash of the decoded pixels in full size.
        framed: hash of the pixels of the prepared square.
        phash: 64-bit perceptual hash.
        luma: (32, 32) uint8, brightness.
        colour: (8, 8, 3) uint8; coarse, since file formats store colour coarsely.
        colours: distinct colours among 64x64 pixels.
        texts: captions beside it, by source.
        unreadable: why a caption file beside it cannot be used; empty where all can.
    """

    candidate: Candidate
    verdict: Verdict
    pixels: str = ""
    framed: str = ""
    phash: int = 0
    luma: np.ndarray | None = None
    colour: np.ndarray | None = None
    colours: int = 0
    texts: Mapping[str, str] = field(default_factory=dict)
    unreadable: str = ""


def screen(candidate: Candidate, config: CurationConfig) -> Screened:
    """Decode a picture and judge it by itself. Never raises for what is wrong with the file."""
    try:
        decoded = decode(candidate.path, config.background, config.max_megapixels)
    except DecodeError as error:
        verdict = Verdict(
            file=candidate.file, reason=error.reason, detail=error.detail, number=error.number
        )
        return Screened(candidate, verdict)
    image = decoded.image
    reason, number, detail = _too_small(image, config)
    verdict = Verdict(
        file=candidate.file,
        reason=reason,
        number=number,
        detail=detail,
        notes=decoded.notes + _enlarged(image, config),
        width=image.width,
        height=image.height,
        format=decoded.format,
    )
    if reason:
        return Screened(candidate, verdict)
    texts, unreadable = _texts(candidate)
    return Screened(
        candidate,
        verdict,
        texts=texts,
        unreadable=unreadable,
        pixels=pixel_hash(image),
        framed=pixel_hash(config.framing.apply(image)),
        phash=int(str(imagehash.phash(image)), 16),
        luma=_shrunk(image.convert("L"), LUMA_SIDE),
        colour=_shrunk(image, COLOUR_SIDE),
        colours=len(image.resize((64, 64), Image.Resampling.BOX).getcolors(64 * 64)),
    )


def _shrunk(image: Image.Image, side: int) -> np.ndarray:
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


def _texts(candidate: Candidate) -> tuple[dict[str, str], str]:
    """Captions beside the picture, and what is wrong with them."""
    try:
        return candidate.texts(), ""
    except CaptionError as error:
        return {}, str(error)


def _enlarged(image: Image.Image, config: CurationConfig) -> tuple[str, ...]:
    scale = config.framing.scale(*image.size)
    return (f"enlarged {scale:.2f} times",) if scale > 1 and config.upscale else ()


def _too_small(image: Image.Image, config: CurationConfig) -> tuple[str, float | None, str]:
    short = min(image.size)
    size = f"{image.width}x{image.height}"
    if short < config.min_side:
        floor = f"{config.min_side} pixels (curation.min_side)"
        detail = f"{size}: a side below {floor}; use a larger picture"
        return "too small", float(short), detail
    scale = config.framing.scale(*image.size)
    if scale > 1 and not config.upscale:
        detail = (
            f"{size} would be enlarged {scale:.2f} times to {config.resolution} pixels; "
            "use a larger picture, or set curation.upscale: true"
        )
        return "too small", float(short), detail
    return "", None, ""
