import doctest

import pytest
from kedro.io import DatasetError
from PIL import Image

from blockwise_lora.datasets import image_set
from blockwise_lora.datasets.image_set import ImageSetDataset
from blockwise_lora.imagesets import CaptionRule, CurationConfig, curate


@pytest.fixture
def images(tmp_path):
    (tmp_path / "raw").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (64, 64), colour).save(tmp_path / "raw" / f"{colour}.png")
    return curate(tmp_path / "raw", CaptionRule("zkc", "square"), CurationConfig())[0]


def test_round_trip(images, tmp_path):
    dataset = ImageSetDataset(filepath=str(tmp_path / "set"), metadata={"x": 1})
    assert not dataset.exists()
    dataset.save(images)
    assert dataset.exists()
    assert dataset.load().sha256 == images.sha256
    assert str(tmp_path / "set") in str(dataset)
    assert dataset.metadata == {"x": 1}


def test_errors_carry_the_message(images, tmp_path):
    with pytest.raises(DatasetError, match="no such folder; run the curation"):
        ImageSetDataset(filepath=str(tmp_path / "nowhere")).load()
    with pytest.raises(DatasetError, match="holds the original"):
        ImageSetDataset(filepath=str(tmp_path / "raw")).save(images)


def test_the_example_in_the_docstring():
    assert doctest.testmod(image_set).failed == 0
    assert doctest.testmod(image_set).attempted > 5
