from collections.abc import Callable

import pytest
import torch
from torch import nn

from blockwise_lora.adapters import AdapterSpec, Attached, attach, trainable_parameters


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
