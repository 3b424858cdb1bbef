"""Fixtures that several packages' tests share."""

from collections.abc import Callable

import pytest
import torch
from diffusers import UNet2DConditionModel


@pytest.fixture
def make_unet() -> Callable[..., UNet2DConditionModel]:
    """A factory of small U-Nets of exactly SD 1.5's structure: same blocks, same module names."""

    def make(seed: int = 0, **changes: object) -> UNet2DConditionModel:
        config = {
            "sample_size": 16,
            "block_out_channels": (32, 32, 64, 64),
            "norm_num_groups": 8,
            "attention_head_dim": 4,
            "cross_attention_dim": 32,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return UNet2DConditionModel(**(config | changes)).eval()

    return make


@pytest.fixture
def tiny_unet(make_unet: Callable[..., UNet2DConditionModel]) -> UNet2DConditionModel:
    """A new small U-Net with the same weights every time; tests may change it."""
    return make_unet()
