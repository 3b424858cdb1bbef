import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures() -> list[Image.Image]:
    """Seven different pictures of 64x64 pixels."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)) for _ in range(7)]
