"""Fixtures of this package's tests."""

from collections.abc import Iterator

import pytest

from blockwise_lora.adapters import attached_names
from blockwise_lora.diffusion.attached import unload
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.imagesets import ImageSet, read_imagefolder
from tiny_base import write_tiny_pictures


@pytest.fixture
def base(loaded_tiny_base: BaseModel) -> Iterator[BaseModel]:
    """The small base model, without adapters before and after."""
    yield loaded_tiny_base
    for name in attached_names(loaded_tiny_base.parts):
        unload(loaded_tiny_base, name)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Five captioned pictures of the small base model's size."""
    return read_imagefolder(write_tiny_pictures(tmp_path_factory.mktemp("sets") / "squares"))
