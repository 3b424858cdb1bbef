from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw


@pytest.fixture
def face() -> Callable[..., Image.Image]:
    """A factory of drawn faces, 64x64; expressions differ in the mouth alone."""

    def draw(mouth: str = "smile", colour: str = "gold") -> Image.Image:
        image = Image.new("RGB", (256, 256), "white")
        pen = ImageDraw.Draw(image)
        pen.ellipse((16, 16, 240, 240), fill=colour, outline="black", width=8)
        for x in (88, 168):
            pen.ellipse((x - 14, 84, x + 14, 124), fill="black")
        if mouth == "smile":
            pen.arc((80, 110, 176, 196), 20, 160, fill="black", width=10)
        elif mouth == "frown":
            pen.arc((80, 160, 176, 246), 200, 340, fill="black", width=10)
        elif mouth == "open":
            pen.ellipse((108, 150, 148, 200), fill="black")
        return image.resize((64, 64), Image.Resampling.LANCZOS)

    return draw


@pytest.fixture
def textured() -> Callable[..., Image.Image]:
    """A factory of pictures as varied as photographs, all different."""

    def draw(seed: int, width: int = 64, height: int = 64) -> Image.Image:
        rng = np.random.default_rng(seed)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        grain = rng.integers(-12, 13, (height, width, 3))
        return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))

    return draw


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """An empty folder for a user's pictures."""
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder
