import dataclasses
import errno
import os

import pytest
import torch
from kedro.io import DatasetError

from blockwise_lora.adapters import AdapterSpec, detach, read_adapter, trainable_parameters
from blockwise_lora.datasets.adapter import AdapterDataset
from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.diffusion.trained import TrainedAdapter
from blockwise_lora.diffusion.trainer import train
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_pictures

CONFIG = TrainingConfig(steps=1, batch_size=1)


@pytest.fixture
def adapter(loaded_tiny_base, tmp_path):
    images = read_imagefolder(write_tiny_pictures(tmp_path / "pictures", 2))
    spec = AdapterSpec(blocks="mid", rank=2)
    trained = train(loaded_tiny_base, images, spec, CONFIG, name="style")
    yield TrainedAdapter(loaded_tiny_base, trained, CONFIG, {"concept": "style"})
    detach(loaded_tiny_base.unet, "style")


@pytest.fixture
def models(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def dataset(models):
    return AdapterDataset(filepath=str(models / "lora" / "style"))


def other(adapter):
    """An adapter of another configuration."""
    return dataclasses.replace(adapter, config=dataclasses.replace(CONFIG, seed=1))


def test_round_trip(dataset, adapter):
    assert not dataset.exists()
    dataset.save(adapter)
    assert dataset.exists()
    live = dict(adapter.base.unet.named_parameters())
    for name, tensor in dataset.load().state.items():
        assert torch.equal(tensor, live[name.replace(".weight", ".style.weight")]), name


def test_another_configuration_is_archived_not_overwritten(dataset, adapter, models, caplog):
    dataset.save(adapter)
    old = dataset.load()
    dataset.save(other(adapter))
    (kept,) = (models / ".archive").iterdir()
    assert kept.name == f"lora-style-{old.sha256[:8]}"
    assert read_adapter(kept).sha256 == old.sha256
    assert dataset.load().sha256 != old.sha256
    assert str(kept) in caplog.text


def test_nothing_in_the_archive_is_overwritten(dataset, adapter, models):
    for _ in range(2):
        dataset.save(adapter)
        dataset.save(other(adapter))
    names = sorted(p.name for p in (models / ".archive").iterdir())
    assert len(names) == 3, "both configurations, the first one twice"
    assert sum(name.endswith("-2") for name in names) == 1


def test_the_same_configuration_is_replaced(dataset, adapter, models):
    dataset.save(adapter)
    first = dataset.load().sha256
    dataset.save(adapter)
    assert dataset.load().sha256 == first
    assert not (models / ".archive").exists()


def test_what_cannot_be_read_is_kept(dataset, adapter, models):
    dataset.save(adapter)
    file = models / "lora" / "style" / "pytorch_lora_weights.safetensors"
    file.write_bytes(b"damaged")
    dataset.save(adapter)
    kept = models / ".archive" / "lora-style-unreadable"
    assert (kept / file.name).read_bytes() == b"damaged"
    assert dataset.exists()


def test_a_failed_save_leaves_the_old_adapter(dataset, adapter, models):
    dataset.save(adapter)
    old = dataset.load().sha256
    weights = trainable_parameters(adapter.base.unet, "style")[0]
    kept = weights.detach().clone()
    with torch.no_grad():
        weights.fill_(torch.nan)
    with pytest.raises(DatasetError):
        dataset.save(adapter)
    with torch.no_grad():
        weights.copy_(kept)
    assert dataset.load().sha256 == old
    assert [p.name for p in (models / "lora").iterdir()] == ["style"]


def test_a_full_disk_costs_no_training(
    dataset, adapter, models, loaded_tiny_base, tmp_path, monkeypatch
):
    """States stay until the adapter is written; started again, the run goes on from there."""

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    def trained():
        return train(
            loaded_tiny_base,
            read_imagefolder(tmp_path / "pictures"),
            AdapterSpec("out3", rank=2),
            dataclasses.replace(CONFIG, steps=3, checkpoint_every=2),
            name="again",
            checkpoint_dir=tmp_path / "states",
            keep_states=True,
        )

    first = trained()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DatasetError, match="the disk is full: free some space and run again"):
            dataset.save(dataclasses.replace(adapter, trained=first))
    assert not dataset.exists() and len(list((tmp_path / "states").iterdir())) == 1
    detach(loaded_tiny_base.unet, "again")
    second = trained()
    assert second.resumed_from == 2 and second.losses == first.losses
    dataset.save(dataclasses.replace(adapter, trained=second))
    assert dataset.exists() and list((tmp_path / "states").iterdir()) == []
    detach(loaded_tiny_base.unet, "again")


def test_mistakes(dataset):
    with pytest.raises(DatasetError, match="does not exist"):
        dataset.load()
    with pytest.raises(DatasetError, match="expected a TrainedAdapter, got str"):
        dataset.save("adapter")


def test_an_archive_that_cannot_be_made(dataset, adapter, models):
    dataset.save(adapter)
    (models / ".archive").write_text("a file in its place")
    with pytest.raises(DatasetError, match=r"cannot be moved to .*\.archive.*make the folders"):
        dataset.save(other(adapter))
    assert dataset.exists()
