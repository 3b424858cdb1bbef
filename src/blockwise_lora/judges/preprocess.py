"""From pictures to the tensors that a judge was trained on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocess:
    """How a judge sees a picture.

    Attributes:
        size: edge of the square input in pixels.
        mean, std: of each channel, in units of the range 0 to 1.
        crop: share of the picture's shorter edge that the centre crop keeps.
    """

    size: int
    mean: Triple
    std: Triple
    crop: float = 1.0

    def __call__(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Returns (n, 3, size, size), float32, normalised."""
        pixels = np.stack([np.asarray(self._square(picture)) for picture in pictures])
        unit = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        mean, std = (torch.tensor(t).view(1, 3, 1, 1) for t in (self.mean, self.std))
        return (unit - mean) / std

    def _square(self, picture: Image.Image) -> Image.Image:
        picture = on_white(picture)
        scale = int(self.size / self.crop) / min(picture.size)
        if scale != 1:
            edges = (max(self.size, round(edge * scale)) for edge in picture.size)
            picture = picture.resize(tuple(edges), Image.Resampling.BICUBIC)
        left, top = ((edge - self.size) // 2 for edge in picture.size)
        return picture.crop((left, top, left + self.size, top + self.size))


def on_white(picture: Image.Image) -> Image.Image:
    """The picture in RGB, transparent parts on white."""
    if picture.mode == "RGB":
        return picture
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture).convert("RGB")


def batches(items: Sequence, size: int) -> Iterator[Sequence]:
    """Slices of at most `size` items."""
    return (items[i : i + size] for i in range(0, len(items), size))


def unit_vectors(vectors: Tensor) -> np.ndarray:
    """Rows scaled to length one, (n, d) float32 on the CPU."""
    return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
