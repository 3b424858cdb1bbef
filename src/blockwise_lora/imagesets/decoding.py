"""Files to RGB pixels, safely: any mode, orientation, colour space; never more than allowed.

Pillow reads far more than picture files (EPS even starts another program), so the formats are
named. Its plugins raise almost anything on malformed bytes; all of it becomes `DecodeError`.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.framing import colour

FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF"),
    *("HEIF", "JPEG2000", "PPM", "TGA", "ICO", "QOI"),
)
SIGNATURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")
MAX_MEGAPIXELS = 100.0
# A phone's JPEG may carry a second picture (depth, preview) without being an animation.
STILL_FORMATS = ("MPO",)


class DecodeError(ImageSetError):
    """A file that yields no picture.

    Attributes:
        reason: one of `not an image`, `damaged`, `too large`, `unreadable`, `unsupported`.
        detail: what is wrong, and the remedy.
        number: the number behind the reason (megapixels), if there is one.
    """

    def __init__(self, path: Path, reason: str, detail: str, number: float | None = None):
        super().__init__(f"{path}: {reason}: {detail}")
        self.reason, self.detail, self.number = reason, detail, number


@dataclass(frozen=True)
class Decoded:
    """A picture in memory and what was done to get it there.

    Attributes:
        image: RGB, upright, sRGB, on the background where the file is transparent.
        format: Pillow's name of the file format.
        notes: what was changed or left out, in words.
        alpha: greyscale, how much of each pixel is there; None where all of all is.
    """

    image: Image.Image
    format: str
    notes: tuple[str, ...]
    alpha: Image.Image | None = None


def decode(
    path: str | Path,
    background: str = "white",
    max_megapixels: float = MAX_MEGAPIXELS,
    *,
    data: BinaryIO | None = None,
    at_least: int | None = None,
) -> Decoded:
    """Read a picture file as RGB.

    Args:
        path: the file.
        background: colour behind transparent pixels.
        max_megapixels: larger pictures are refused from their header, before they are unpacked.
        data: the file's content, where it was read already; `path` then is a name for messages.
        at_least: a shorter side of so many pixels is enough: a JPEG is then unpacked at a half, a
            quarter or an eighth of its size, which takes less than half the time.

    Raises:
        DecodeError: the file yields no picture.
    """
    path = Path(path)
    try:
        with _opened(data or path) as image:
            _check_size(path, image, max_megapixels)
            if at_least:
                image.draft(None, (at_least, at_least))  # nothing for other formats
            return _upright_rgb(image, background)
    except DecodeError:
        raise
    except UnidentifiedImageError:
        raise DecodeError(path, *_unidentified(data or path)) from None
    except Image.DecompressionBombError:
        detail = f"more than {max_megapixels:g} megapixels by its header; scale it down"
        raise DecodeError(path, "too large", detail) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DecodeError(path, "unreadable", f"{error.strerror}; check the file") from error
        words = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        detail = f"truncated or corrupt ({words}); export it again"
        raise DecodeError(path, "damaged", detail) from error


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Pillow's warnings, for the whole process: enter it outside of threads.

    What they are about (sizes, broken tags) is judged here and told in the report.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.filterwarnings("ignore", module="PIL")
        yield


def _opened(source: Path | BinaryIO) -> Image.Image:
    _load_plugins()
    return Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN])


@cache
def _load_plugins() -> None:
    Image.init()
    with suppress(ImportError):  # the extra `heif`
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)


def _check_size(path: Path, image: Image.Image, max_megapixels: float) -> None:
    megapixels = image.width * image.height / 1e6
    if megapixels > max_megapixels:
        detail = (
            f"{image.width}x{image.height} is more than {max_megapixels:g} megapixels; "
            "scale it down or raise curation.max_megapixels"
        )
        raise DecodeError(path, "too large", detail, round(megapixels, 1))


def _unidentified(source: Path | BinaryIO) -> tuple[str, str]:
    if isinstance(source, Path):
        with source.open("rb") as file:
            head = file.read(512)
    else:
        source.seek(0)
        head = source.read(512)
    if not head:
        return "not an image", "the file is empty; export it again"
    if b"<svg" in head:
        return "not an image", "an SVG drawing; render it to PNG first"
    if head[4:8] == b"ftyp" and "HEIF" not in Image.OPEN:
        return "unsupported", 'HEIC needs an extra: pip install "blockwise-lora[heif]"'
    if head.startswith(SIGNATURES):
        return "damaged", "truncated or corrupt header; export it again"
    return "not an image", "no known picture format; convert it to PNG or JPEG"


def _upright_rgb(image: Image.Image, background: str) -> Decoded:
    format_, notes = image.format or "", []
    frames = getattr(image, "n_frames", 1) if format_ not in STILL_FORMATS else 1
    if frames > 1:
        notes.append(f"first of {frames} frames")
    image.load()
    profile = image.info.get("icc_profile")
    upright = _upright(image, notes)
    flat, alpha = _flat(_eight_bits(upright, notes), profile, background, notes)
    return Decoded(flat, format_, tuple(notes), alpha)


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """Turn a picture as its EXIF orientation says."""
    try:
        if image.getexif().get(0x0112, 1) == 1:
            return image
        upright = ImageOps.exif_transpose(image)
    except Exception:  # malformed EXIF is no reason to lose the picture
        notes.append("unreadable EXIF ignored")
        return image
    notes.append("rotated by EXIF")
    return upright


def _eight_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    """Bring 16-bit, 32-bit and floating-point greys to 8 bits; other modes pass."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    if image.mode == "F" and values.max(initial=0) <= 1:
        values = values * 255
    elif image.mode.startswith("I;16") or values.max(initial=0) > 255:
        values = values / 257  # 65535 -> 255
    notes.append(f"{'floating point' if image.mode == 'F' else '16 bits'} to 8 bits")
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _flat(
    image: Image.Image, profile: bytes | None, background: str, notes: list[str]
) -> tuple[Image.Image, Image.Image | None]:
    """Colours to sRGB, transparency onto the background, mode to RGB; and the transparency."""
    transparent = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa")
    alpha = image.convert("RGBA").getchannel("A") if transparent else None
    if image.mode == "CMYK":
        notes.append("CMYK to RGB")
    colours = _srgb(image, profile, notes)
    if alpha is None or alpha.getextrema() == (255, 255):
        return colours, None
    notes.append("transparency flattened")
    canvas = Image.new("RGB", image.size, colour(background))
    canvas.paste(colours, mask=alpha)
    return canvas, alpha


def _srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    if image.mode == "LAB":
        notes.append("Lab to RGB")
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    # Palettes and alpha are no colour spaces of a profile: reduce to the one underneath.
    space = {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
    if image.mode == "RGB":
        plain = image
    elif space == "RGB":
        plain = image.convert("RGBA").convert("RGB")
    else:
        plain = _grey_or_cmyk(image, space)
    if profile:
        try:
            transform = _to_srgb(profile, plain.mode)
            if transform is not None:
                converted = ImageCms.applyTransform(plain, transform)
                notes.append("ICC profile to sRGB")
                return converted
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            notes.append("unusable ICC profile ignored")
    return plain.convert("RGB")


@lru_cache(maxsize=8)  # a camera's pictures have one profile, and making ready for it takes long
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if "srgb" in ImageCms.getProfileDescription(source).lower():
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")


def _grey_or_cmyk(image: Image.Image, space: str) -> Image.Image:
    # "La" (premultiplied) converts only to "LA".
    return (image.convert("LA") if image.mode == "La" else image).convert(space)
