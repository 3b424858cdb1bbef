"""Fixtures of this package's tests."""

from collections.abc import Iterator

import pytest

from blockwise_lora.adapters import AdapterSpec, attached_names, detach
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.imagesets import ImageSet, read_imagefolder
from blockwise_lora.sweep.bank import Bank, Lesson
from tiny_base import write_tiny_pictures


@pytest.fixture
def base(loaded_tiny_base: BaseModel) -> Iterator[BaseModel]:
    """The small base model, without adapters before and after."""
    yield loaded_tiny_base
    for name in attached_names(loaded_tiny_base.unet):
        detach(loaded_tiny_base.unet, name)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """Five captioned pictures of the small base model's size."""
    return read_imagefolder(write_tiny_pictures(tmp_path_factory.mktemp("sets") / "squares"))


@pytest.fixture
def lesson(images: ImageSet) -> Lesson:
    """Two steps at a rate at which they show."""
    config = TrainingConfig(steps=2, batch_size=2, learning_rate=0.1)
    return Lesson("character", images, AdapterSpec(rank=2), config, {"concept": "character"})


@pytest.fixture
def bank(tmp_path) -> Bank:
    """An empty bank."""
    return Bank(tmp_path / "bank")
