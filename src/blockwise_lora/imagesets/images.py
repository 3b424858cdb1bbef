"""A set of captioned pictures: the value that training, judges and reports take."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from blockwise_lora.imagesets.decoding import decode
from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.framing import Framing


@dataclass(frozen=True)
class Mask:
    """What of a picture counts in training.

    Attributes:
        path: a picture file, white where the picture counts.
        of_alpha: it is the file's transparency that counts, not its brightness.
        sha256: of the opened mask's pixels.
    """

    path: Path
    sha256: str
    of_alpha: bool = False


@dataclass(frozen=True)
class Picture:
    """One captioned picture, opened when it is asked for.

    Attributes:
        path: the file that is read.
        file_name: its name in the set, relative, with forward slashes.
        caption: what the text encoder is given.
        width: of the opened picture in pixels.
        height: likewise.
        sha256: of the opened picture's pixels, see `pixel_hash`.
        source: name of the original in the folder that was curated; empty where unknown.
        framing: how `path` becomes the picture; None where it is the picture already.
        max_megapixels: what decoding `path` may take.
        repeats: how often a pass through the set shows it.
        mask: what of it counts; None: all of it.
    """

    path: Path
    file_name: str
    caption: str
    width: int
    height: int
    sha256: str
    source: str = ""
    framing: Framing | None = None
    max_megapixels: float = 100.0
    repeats: int = 1
    mask: Mask | None = None

    def open(self) -> Image.Image:
        """Return the picture as RGB, (height, width).

        Raises:
            ImageSetError: the file is gone, damaged, or not the picture that the set describes.
        """
        background = self.framing.background if self.framing else "white"
        image = decode(self.path, background, self.max_megapixels).image
        if self.framing:
            image = self.framing.apply(image)
        if pixel_hash(image) != self.sha256:
            raise ImageSetError(
                f"{self.path} has changed since the set was made; run the curation again"
            )
        return image

    def open_mask(self) -> Image.Image | None:
        """Return the mask as greyscale, (height, width), or None where all of the picture counts.

        Raises:
            ImageSetError: the file is gone, damaged, or not the mask that the set describes.
        """
        if self.mask is None:
            return None
        decoded = decode(self.mask.path, "black", self.max_megapixels)
        mask = decoded.alpha if self.mask.of_alpha and decoded.alpha else decoded.image
        # What is padded onto the picture is no part of it.
        mask = self.framing.mask(mask) if self.framing else mask.convert("L")
        if pixel_hash(mask) != self.mask.sha256:
            raise ImageSetError(
                f"{self.mask.path} has changed since the set was made; run the curation again"
            )
        return mask


@dataclass(frozen=True)
class ImageSet:
    """Captioned pictures in a fixed order.

    Attributes:
        root: the folder that the set was read or made from.
        pictures: the pictures, in the order of `metadata.jsonl`.
        card: what the set is and where it is from, for its README.md; empty: none.
    """

    root: Path
    pictures: tuple[Picture, ...]
    card: str = ""

    @classmethod
    def read(cls, folder: str | Path) -> "ImageSet":
        """Read an image folder; see `imagefolder.read_imagefolder`."""
        from blockwise_lora.imagesets.imagefolder import read_imagefolder

        return read_imagefolder(folder)

    @cached_property
    def sha256(self) -> str:
        """One hash of all that is trained on, in its order; file names do not count."""
        total = hashlib.sha256()
        for picture in self.pictures:
            total.update(f"{picture.sha256}\0{picture.caption}\n".encode())
            if picture.repeats != 1:
                total.update(f"repeats {picture.repeats}\n".encode())
            if picture.mask:
                total.update(f"mask {picture.mask.sha256}\n".encode())
        return total.hexdigest()

    @property
    def captions(self) -> tuple[str, ...]:
        return tuple(picture.caption for picture in self.pictures)

    def find(self, name: str) -> Picture | None:
        """The picture of a file name, the set's own or that of the original."""
        for picture in self.pictures:
            if name in (picture.source, picture.file_name):
                return picture
        return None

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self.pictures)

    def __getitem__(self, index: int) -> Picture:
        return self.pictures[index]


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of a picture's mode, size and pixels, whatever file format it came from."""
    total = hashlib.sha256(f"{image.mode} {image.width}x{image.height}\n".encode())
    total.update(image.tobytes())
    return total.hexdigest()
