import dataclasses
from pathlib import Path

import pytest
import torch

from blockwise_lora.adapters import AdapterSpec
from blockwise_lora.atomic import WriteError
from blockwise_lora.diffusion import checkpoints as checkpoints_module
from blockwise_lora.diffusion.checkpoints import (
    Checkpoints,
    State,
    configuration_hash,
    user_cache,
)
from blockwise_lora.diffusion.config import TrainingConfig


def state(step, value=0.0):
    return State(step, {"a": torch.full((3,), value)}, {"run": f"r{step}"})


def test_a_state_comes_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new", ["k"])
    assert checkpoints.load() == {}
    tensors = {"a": torch.arange(3.0), "b": torch.tensor(1.5)}
    checkpoints.save({"k": State(3, tensors, {"run": "abc"})})
    found = checkpoints.load()["k"]
    assert found.step == 3 and found.notes == {"run": "abc"}
    assert torch.equal(found.tensors["a"], torch.arange(3.0)) and found.tensors["b"].item() == 1.5
    checkpoints.save({"k": state(4)})
    assert checkpoints.load()["k"].step == 4
    assert len(list((tmp_path / "new").iterdir())) == 1, "older states are pruned"
    checkpoints.remove(["k"])
    checkpoints.remove(["k"])
    assert checkpoints.load() == {} and list((tmp_path / "new").iterdir()) == []


def test_half_a_save_counts_for_nothing(tmp_path):
    """A kill between two files of one save: both go on from the save before."""
    pair = Checkpoints(tmp_path, ["k", "l"])
    pair.save({"k": state(100), "l": state(100)})
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pair.save({"k": state(200), "l": state(200)})
    (tmp_path / "l-200.safetensors").unlink()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".l-200.safetensors.tmp").write_bytes(b"half")
    assert {key: s.step for key, s in pair.load().items()} == {"k": 100, "l": 100}
    # Who trains without the other does not wait for it.
    assert Checkpoints(tmp_path, ["k"]).load()["k"].step == 200
    pair.save({"k": state(200), "l": state(200)})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "k-200.safetensors",
        "l-200.safetensors",
    ]


def test_each_adapter_is_found_in_another_company(tmp_path):
    Checkpoints(tmp_path, ["k", "l"]).save({"k": state(5, 1.0), "l": state(5, 2.0)})
    found = Checkpoints(tmp_path, ["l", "m"]).load()
    assert list(found) == ["l"] and found["l"].tensors["a"][0] == 2.0


def test_who_has_ended_counts_where_the_others_are_as_far_or_further(tmp_path):
    ended = dataclasses.replace(state(100), ended=True)
    pair = Checkpoints(tmp_path, ["k", "l"])
    pair.save({"k": state(50), "l": state(50)})
    early = (tmp_path / "l-50.safetensors").read_bytes()
    pair.save({"k": ended, "l": state(100)})
    pair.save({"l": state(200)})
    grown = Checkpoints(tmp_path, ["k", "l", "m"])
    assert {key: s.step for key, s in grown.load().items()} == {"k": 100, "l": 200}
    assert grown.load()["k"].ended and not grown.load()["l"].ended
    grown.save({"l": state(300), "m": state(100)})
    assert {k: s.step for k, s in grown.load().items()} == {"k": 100, "l": 300, "m": 100}
    # Of the save in which it ended the other's file is not there: a kill in its middle.
    (tmp_path / "l-300.safetensors").unlink()
    (tmp_path / "l-50.safetensors").write_bytes(early)
    assert "k" not in pair.load()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="file"):
        Checkpoints(tmp_path / "file", ["k"]).save({"k": state(1)})


def test_a_full_disk_keeps_the_old_states(tmp_path, monkeypatch):
    pair = Checkpoints(tmp_path, ["k", "l"])
    pair.save({"k": state(1), "l": state(1)})
    write = checkpoints_module.write_bytes

    def full(path, data):
        if path.name.startswith("l"):
            raise WriteError("the disk is full")
        write(path, data)

    monkeypatch.setattr(checkpoints_module, "write_bytes", full)
    with pytest.raises(WriteError):
        pair.save({"k": state(2), "l": state(2)})
    assert {key: s.step for key, s in pair.load().items()} == {"k": 1, "l": 1}
    assert len(list(tmp_path.iterdir())) == 2


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
