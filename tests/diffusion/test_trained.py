import dataclasses
import json

import pytest
import torch
from safetensors import safe_open

from blockwise_lora.adapters import (
    AdapterSpec,
    detach,
    load_adapter,
    read_adapter,
    trainable_parameters,
)
from blockwise_lora.diffusion.config import EfficiencyConfig, TrainingConfig
from blockwise_lora.diffusion.trained import TrainedAdapter, configuration_of
from blockwise_lora.diffusion.trainer import train

SPEC = AdapterSpec(blocks="mid+out3:4", method="locon", rank=2, alpha=1.0)
CONFIG = TrainingConfig(steps=2, batch_size=2, learning_rate=1e-3, seed=5)
WORDS = {"concept": "style", "trigger": "qwo"}


@pytest.fixture
def adapter(base, images):
    return TrainedAdapter(base, train(base, images, SPEC, CONFIG, name="style"), CONFIG, WORDS)


def test_it_comes_back_bit_by_bit(adapter, base, tmp_path):
    adapter.write(tmp_path)
    before = [p.detach().clone() for p in trainable_parameters(base.unet, "style")]
    detach(base.unet, "style")
    read = read_adapter(tmp_path)
    assert read.spec == SPEC
    load_adapter(base.unet, read, "again")
    after = trainable_parameters(base.unet, "again")
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert (tmp_path / "adapter.safetensors").exists()


def test_the_file_says_how_it_was_made(adapter, base, images, tmp_path):
    adapter.write(tmp_path)
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", framework="pt") as file:
        metadata = file.metadata()
    told = {k.removeprefix("blockwise_lora."): v for k, v in metadata.items()}
    assert json.loads(told["training"])["steps"] == 2
    assert told["seed"] == "5" and told["trigger"] == "qwo" and told["concept"] == "style"
    assert told["base_model_sha256"] == base.sha256
    assert told["data_sha256"] == images.sha256
    assert {"torch", "peft", "diffusers"} <= set(json.loads(told["versions"]))
    assert configuration_of(read_adapter(tmp_path)) == adapter.configuration


def test_equal_runs_give_equal_files(adapter, base, images, tmp_path):
    adapter.write(tmp_path / "first")
    detach(base.unet, "style")
    again = TrainedAdapter(base, train(base, images, SPEC, CONFIG, name="style"), CONFIG, WORDS)
    again.write(tmp_path / "second")
    for name in ("pytorch_lora_weights.safetensors", "adapter.safetensors"):
        first, second = ((tmp_path / f / name).read_bytes() for f in ("first", "second"))
        assert first == second, name


def test_the_configuration_is_what_was_decided(adapter):
    graphs = EfficiencyConfig(cuda_graphs=True)
    config = dataclasses.replace(CONFIG, checkpoint_every=7, efficiency=graphs)
    same = dataclasses.replace(adapter, config=config)
    assert same.configuration == adapter.configuration
    for change in (
        {"config": dataclasses.replace(CONFIG, steps=3)},
        {"words": WORDS | {"trigger": "zkc"}},
        {"base": dataclasses.replace(adapter.base, sha256="other")},
        {"trained": dataclasses.replace(adapter.trained, data_sha256="other")},
    ):
        assert dataclasses.replace(adapter, **change).configuration != adapter.configuration
