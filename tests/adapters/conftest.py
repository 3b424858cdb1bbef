from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from blockwise_lora.adapters import (
    AdapterSpec,
    Attached,
    attach,
    save_adapter,
    trainable_parameters,
)


@pytest.fixture
def output() -> Callable[[nn.Module], torch.Tensor]:
    """A U-Net's output on a fixed batch."""
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    text = torch.randn(2, 5, 32, generator=generator)

    def run(unet: nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return unet(latents, torch.tensor([900, 3]), text).sample

    return run


@pytest.fixture
def trained() -> Callable[..., Attached]:
    """Attach an adapter and give it weights as training would: A and B both off their start."""

    def attach_trained(unet: nn.Module, spec: AdapterSpec, name: str, seed: int = 1) -> Attached:
        generator = torch.Generator().manual_seed(seed)
        attached = attach(unet, spec, name, generator)
        with torch.no_grad():
            for parameter in trainable_parameters(unet, name):
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        return attached

    return attach_trained


@pytest.fixture
def saved_spec() -> AdapterSpec:
    """Of the adapter in `saved`: ranks and scales of its own for blocks and convolutions."""
    return AdapterSpec("all+in0:0+out1:16", "locon", rank=8, alpha=3, conv_rank=5, conv_alpha=2)


@pytest.fixture
def saved(tiny_unet, trained, saved_spec, tmp_path) -> Path:
    """A saved adapter's folder."""
    trained(tiny_unet, saved_spec, "a")
    folder = tmp_path / "saved"
    save_adapter(folder, tiny_unet, "a", spec=saved_spec, metadata={"seed": "3"})
    return folder
