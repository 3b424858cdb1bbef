from pathlib import Path

import pytest
import torch

from blockwise_lora.adapters import AdapterSpec
from blockwise_lora.atomic import WriteError
from blockwise_lora.diffusion.checkpoints import Checkpoint, configuration_hash, user_cache
from blockwise_lora.diffusion.config import TrainingConfig


def test_a_state_comes_back(tmp_path):
    checkpoint = Checkpoint.of(tmp_path / "new", "0" * 64)
    assert checkpoint.load() is None
    checkpoint.save(3, {"a": torch.arange(3.0), "b": torch.tensor(1.5)})
    step, tensors = checkpoint.load()
    assert step == 3
    assert torch.equal(tensors["a"], torch.arange(3.0)) and tensors["b"].item() == 1.5
    checkpoint.save(4, {"a": torch.zeros(1)})
    assert checkpoint.load()[0] == 4
    assert len(list((tmp_path / "new").iterdir())) == 1
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load() is None


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file"):
        Checkpoint.of(tmp_path / "file", "0" * 64).save(1, {"a": torch.zeros(1)})


def test_a_hash_follows_every_part():
    parts = {"spec": AdapterSpec().to_json(), "config": TrainingConfig(), "data": "x"}
    first = configuration_hash(**parts)
    assert configuration_hash(**parts) == first
    for change in ({"config": TrainingConfig(seed=1)}, {"data": "y"}, {"more": None}):
        assert configuration_hash(**(parts | change)) != first


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("BLOCKWISE_LORA_CACHE", str(tmp_path))
    assert user_cache() == tmp_path
    monkeypatch.delenv("BLOCKWISE_LORA_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" / "blockwise_lora"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert user_cache() == Path(tmp_path / "local" / "blockwise_lora")
