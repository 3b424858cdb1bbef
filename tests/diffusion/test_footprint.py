import dataclasses

import pytest
import torch
from torch import nn

from blockwise_lora.adapters import (
    AdapterSpec,
    attach,
    attached_names,
    detach,
    trainable_parameters,
)
from blockwise_lora.diffusion.config import EfficiencyConfig, TrainingConfig
from blockwise_lora.diffusion.footprint import BYTES_PER_TRAINED, kept_bytes, training_bytes


@pytest.fixture
def base(loaded_tiny_base):
    yield loaded_tiny_base
    for name in attached_names(loaded_tiny_base.unet):
        detach(loaded_tiny_base.unet, name)


def test_what_autograd_keeps_is_counted_once_and_without_weights():
    """Linear keeps its input (2 x 3 floats), relu its output (2 x 4); the last Linear the same."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5))
    assert kept_bytes(model, lambda: model(torch.zeros(2, 3))) == 4 * (2 * 3 + 2 * 4)
    model.requires_grad_(False)
    assert kept_bytes(model, lambda: model(torch.zeros(2, 3))) == 0


def test_late_masks_and_small_batches_take_less(base):
    config = TrainingConfig(batch_size=2)
    for name, mask in (("whole", "all"), ("late", "out3")):
        attach(base.unet, AdapterSpec(rank=2, blocks=mask), name, torch.Generator().manual_seed(0))
    values = {
        name: sum(p.numel() for p in trainable_parameters(base.unet, name))
        for name in ("whole", "late")
    }
    taken = {name: training_bytes(base, name, config) for name in values}
    activations = {name: taken[name] - BYTES_PER_TRAINED * n for name, n in values.items()}
    assert 0 < activations["late"] < activations["whole"]
    half = training_bytes(base, "whole", dataclasses.replace(config, batch_size=1))
    assert taken["whole"] - half == pytest.approx(activations["whole"] / 2, rel=0.1)
    saving = dataclasses.replace(config, efficiency=EfficiencyConfig(gradient_checkpointing=True))
    assert training_bytes(base, "whole", saving) < taken["whole"]
