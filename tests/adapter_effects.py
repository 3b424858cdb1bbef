"""Adapters with random values, and what they change in the output of a U-Net, for tests."""

import copy
import math
from collections.abc import Mapping
from weakref import WeakKeyDictionary

import torch
from torch import nn

from blockwise_lora.adapters.updates import (
    Dora,
    Hadamard,
    Kronecker,
    LowRank,
    Orthogonal,
    Update,
)
from blockwise_lora.blocks.structure import Layer

_OUTPUTS: WeakKeyDictionary[nn.Module, torch.Tensor] = WeakKeyDictionary()


def random_update(
    kind: type,
    layer: Layer,
    rank: int,
    alpha: float,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> Update:
    def values(*shape: int) -> torch.Tensor:
        return (0.3 * torch.randn(shape, generator=generator)).to(dtype)

    if kind is Orthogonal:
        return Orthogonal(values(layer.shape[1] // 4, 6), layer.shape)
    out, wide = layer.shape[0], math.prod(layer.shape[1:])
    scale, ones = alpha / rank, (1,) * len(layer.shape[2:])
    if kind is Hadamard:
        factors = (values(out, rank), values(rank, wide), values(out, rank), values(rank, wide))
        return Hadamard(*factors, layer.shape, scale)
    if kind is Kronecker:
        empty = Kronecker.empty(layer.shape, rank, scale)
        filled = {
            key.removeprefix("lokr_"): values(*tensor.shape)
            for key, tensor in empty.tensors().items()
        }
        return Kronecker(layer.shape, scale, rank, **filled)
    low = LowRank(values(rank, *layer.shape[1:]), values(out, rank, *ones), scale)
    if kind is LowRank:
        return low
    magnitude = 1 + values(out)
    return Dora(low, magnitude if not ones else magnitude.reshape(1, -1, 1, 1))


def effect(unet: nn.Module, updates: Mapping[str, Update]) -> torch.Tensor:
    """What updates change in the output of a U-Net, in double precision."""
    before = base_output(unet)
    unet = copy.deepcopy(unet).double()
    with torch.no_grad():
        for name, update in updates.items():
            weight = unet.get_submodule(name).weight
            weight += double(update).delta(weight.clone())
    return run(unet) - before


def base_output(unet: nn.Module) -> torch.Tensor:
    """The output of a U-Net without any adapter, in double precision; worked out once."""
    if unet not in _OUTPUTS:
        _OUTPUTS[unet] = run(copy.deepcopy(unet).double())
    return _OUTPUTS[unet]


def run(unet: nn.Module) -> torch.Tensor:
    """The output on a fixed batch."""
    generator = torch.Generator().manual_seed(7)
    dtype = unet.conv_in.weight.dtype
    latents = torch.randn(2, 4, 16, 16, generator=generator).to(dtype)
    text = torch.randn(2, 5, 32, generator=generator).to(dtype)
    extra = {
        "text_embeds": torch.randn(2, 16, generator=generator).to(dtype),
        "time_ids": torch.arange(12.0).reshape(2, 6).to(dtype),
    }
    with torch.no_grad():
        return unet(latents, torch.tensor([900, 3]), text, added_cond_kwargs=extra).sample


def double(update: Update) -> Update:
    """The same with tensors of double precision."""
    if isinstance(update, Dora):
        return Dora(double(update.low_rank), update.magnitude.double())
    values = {
        key: value.double() if isinstance(value, torch.Tensor) else value
        for key, value in vars(update).items()
    }
    return type(update)(**values)


def assert_close(one: torch.Tensor, two: torch.Tensor, tolerance: float = 1e-6) -> None:
    """Equal in effect: relative to the effect, not to the output."""
    assert two.norm() > 0.01
    assert ((one - two).norm() / two.norm()).item() < tolerance


def assert_same(one: Mapping[str, Update], two: Mapping[str, Update]) -> None:
    """Equal to the bit, tensors and numbers."""
    assert one.keys() == two.keys()
    for name, update in one.items():
        other = two[name]
        assert type(update) is type(other)
        assert (update.scale, update.rank, tuple(update.shape)) == (
            other.scale,
            other.rank,
            tuple(other.shape),
        )
        mine, theirs = update.tensors(), other.tensors()
        assert mine.keys() == theirs.keys()
        for key, tensor in mine.items():
            assert tensor.dtype == theirs[key].dtype
            assert torch.equal(tensor, theirs[key]), (name, key)
