import base64
import io
from dataclasses import replace

import pytest
from kedro.io import DatasetError
from PIL import Image

from blockwise_lora.adapters import Schedule
from blockwise_lora.datasets.sample_set import SampleSetDataset
from blockwise_lora.diffusion.combination import CombinationConfig, Schedules, Strengths
from blockwise_lora.diffusion.samples import Origin, SampleRow, SampleSet
from blockwise_lora.diffusion.sampling import SamplingConfig


@pytest.fixture
def samples():
    rows = tuple(SampleRow(c, 0, "a cat", 1, "lora") for c in ("character", "style", "both"))
    return SampleSet(rows, tuple(Image.new("RGB", (8, 8), c) for c in ("red", "lime", "blue")))


@pytest.fixture
def dataset(tmp_path):
    return SampleSetDataset(filepath=str(tmp_path / "lora"))


def test_round_trip(dataset, samples):
    assert not dataset.exists()
    dataset.save(samples)
    assert dataset.exists()
    loaded = dataset.load()
    assert loaded.rows == samples.rows
    assert [p.getpixel((0, 0)) for p in loaded.pictures] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_what_they_were_made_with_is_told(dataset, samples, tmp_path):
    combination = CombinationConfig(
        strengths=Strengths(0.5, {"mid": 0.0}),
        schedules=Schedules(style=Schedule(0.2)),
        sampling=SamplingConfig(steps=7),
    )
    origin = Origin({"character": "a1", "style": "b2"}, combination)
    dataset.save(replace(samples, origin=origin))
    assert dataset.load().origin == origin
    dataset.save(samples)
    assert dataset.load().origin is None
    (tmp_path / "lora" / "made_with.json").write_text("[]")
    with pytest.raises(DatasetError, match="cannot be read"):
        dataset.load()


def test_saving_replaces_the_folder(dataset, samples, tmp_path):
    dataset.save(samples)
    dataset.save(SampleSet(samples.rows[:1], samples.pictures[:1]))
    assert len(dataset.load()) == 1
    names = sorted(p.name for p in (tmp_path / "lora").iterdir())
    assert names == ["character-000-1.png", "metadata.jsonl"]


def test_preview_is_a_picture(dataset, samples):
    dataset.save(samples)
    with Image.open(io.BytesIO(base64.b64decode(dataset.preview()))) as sheet:
        assert sheet.size == (3 * 96, 96)
        assert sheet.getpixel((200, 50)) == (0, 0, 255)


def test_mistakes(dataset):
    with pytest.raises(DatasetError, match="kedro run --pipelines combination"):
        dataset.load()
    with pytest.raises(DatasetError, match="expected a SampleSet, got list"):
        dataset.save([])
