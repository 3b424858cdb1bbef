"""All that curation needs to know of one picture's bytes; it is measured once and then kept."""

import io
import json
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.decoding import DecodeError, decode
from blockwise_lora.imagesets.images import pixel_hash
from blockwise_lora.imagesets.likeness import Looks, looks_of

VERSION = 3
"""Raised when the same bytes and configuration are measured differently from before."""

_SHARPNESS_SIDE = 256


@dataclass(frozen=True)
class Measures:
    """What the bytes of one file say.

    Attributes:
        reason: why they are no picture; empty where they are one.
        detail: the reason in words.
        number: the number behind it.
        notes: what was changed on the way in.
        width: of the upright picture in pixels.
        height: likewise.
        format: of the file.
        pixels: hash of the decoded pixels in full size.
        framed: hash of the pixels once framed.
        mask: hash of the framed transparency; empty where nothing is transparent, or not asked for.
        focus: the focal point, (x, y) from 0 to 1.
        sharpness: see `Checks.blurred`.
        brightness: 95th percentile, 0 to 255.
        colours: distinct colours among 64x64 pixels.
        looks: packed, for the search for copies; empty where there are none, or they lie elsewhere.
    """

    reason: str = ""
    detail: str = ""
    number: float | None = None
    notes: tuple[str, ...] = ()
    width: int | None = None
    height: int | None = None
    format: str = ""
    pixels: str = ""
    framed: str = ""
    mask: str = ""
    focus: tuple[float, float] = (0.5, 0.5)
    sharpness: float | None = None
    brightness: float | None = None
    colours: int = 0
    looks: bytes = b""

    def to_bytes(self) -> bytes:
        """One line of JSON, then the looks as they are."""
        values = {k: v for k, v in asdict(self).items() if k != "looks"}
        return json.dumps(values).encode() + b"\n" + self.looks

    @classmethod
    def from_bytes(cls, data: bytes) -> "Measures":
        """The inverse of `to_bytes`.

        Raises:
            ValueError: the bytes are damaged.
        """
        head, _, looks = data.partition(b"\n")
        values = json.loads(head)
        if looks:
            Looks.unpacked(looks)  # damage is to be found here, not in the midst of a search
        pairs = {key: tuple(values.pop(key)) for key in ("notes", "focus")}
        return cls(**values, **pairs, looks=looks)


def key_of(config: CurationConfig) -> str:
    """The part of a configuration that measures depend on."""
    framing = config.framing
    return f"{VERSION} {framing} {config.alpha} {config.max_megapixels}"


def measure(name: str, data: bytes, config: CurationConfig) -> Measures:
    """Measure a file's bytes. Never raises for what is wrong with them.

    Args:
        name: of the file, for messages.
        data: its content.
        config: how it is decoded and framed.
    """
    try:
        decoded = decode(name, config.background, config.max_megapixels, data=io.BytesIO(data))
    except DecodeError as error:
        return Measures(error.reason, error.detail, error.number)
    image = decoded.image
    framing = config.framing.on(image)
    masked = config.alpha == "mask" and decoded.alpha is not None
    return Measures(
        notes=decoded.notes,
        width=image.width,
        height=image.height,
        format=decoded.format,
        pixels=pixel_hash(image),
        framed=pixel_hash(framing.apply(image)),
        mask=pixel_hash(framing.mask(decoded.alpha)) if masked else "",
        focus=framing.focus,
        sharpness=_sharpness(image),
        brightness=float(np.percentile(np.asarray(_small(image).convert("L")), 95)),
        colours=len(image.resize((64, 64), Image.Resampling.BOX).getcolors(64 * 64)),
        looks=looks_of(image).packed(),
    )


def _small(image: Image.Image) -> Image.Image:
    factor = min(image.size) // _SHARPNESS_SIDE
    return image.reduce(factor) if factor > 1 else image


def _sharpness(image: Image.Image) -> float | None:
    """None for a picture without contrast, which is neither sharp nor blurred."""
    luma = np.asarray(_small(image).convert("L"), np.float32)
    deviation = float(luma.std())
    if min(luma.shape) < 3 or deviation < 1:
        return None
    inner = luma[1:-1, 1:-1]
    around = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return round(float((around / 4 - inner).std()) / deviation, 4)
