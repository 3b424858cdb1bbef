from collections.abc import Callable

import pytest
from PIL import Image

from blockwise_lora.imagesets.captioning import Subject


@pytest.fixture
def subject() -> Callable[..., Subject]:
    """A factory of pictures of one colour that want a caption."""

    def make(file: str, colour: str = "red", **texts: str) -> Subject:
        return Subject(file, lambda: Image.new("RGB", (64, 64), colour), texts)

    return make
