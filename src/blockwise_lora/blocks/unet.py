"""The blocks of a U-Net.

A sub-block is one resnet with the attention beside it, or a downsampler; an upsampler belongs to
the last resnet before it. Counting them through the model gives the numbers of the original
Stable Diffusion code (`input_blocks.N`, `output_blocks.N`): IN00 is `conv_in`, so the first is
IN01. Nothing here is a list for a certain model: SD 1.x, SD 2.x, SDXL and smaller relatives all
follow from the same walk.
"""

from collections.abc import Iterator
from itertools import count

from torch import nn

from blockwise_lora.blocks.layers import Layer, SubBlock, found_in

PARTS = ("down_blocks", "mid_block", "up_blocks")


def is_unet(denoiser: nn.Module) -> bool:
    """Whether it has the two sides of a U."""
    return all(hasattr(denoiser, part) for part in ("down_blocks", "up_blocks"))


def unet_blocks(unet: nn.Module) -> tuple[SubBlock, ...]:
    """The sub-blocks from IN01 over MID to the last OUT."""
    return (*_down(unet), *_mid(unet), *_up(unet))


def _down(unet: nn.Module) -> Iterator[SubBlock]:
    number = count(1)  # IN00 is conv_in
    for i, block in enumerate(unet.down_blocks):
        prefix, coarse = f"down_blocks.{i}", f"in{i}"
        for parts in _by_layer(block, prefix):
            yield _sub_block(unet, f"IN{next(number):02d}", coarse, parts)
        if getattr(block, "downsamplers", None):
            yield _sub_block(unet, f"IN{next(number):02d}", coarse, (f"{prefix}.downsamplers",))


def _mid(unet: nn.Module) -> Iterator[SubBlock]:
    if getattr(unet, "mid_block", None) is not None:
        yield _sub_block(unet, "MID", "mid", ("mid_block",))


def _up(unet: nn.Module) -> Iterator[SubBlock]:
    number = count(0)
    for i, block in enumerate(unet.up_blocks):
        prefix, coarse = f"up_blocks.{i}", f"out{i}"
        parts = _by_layer(block, prefix)
        if getattr(block, "upsamplers", None):
            parts[-1] += (f"{prefix}.upsamplers",)
        for part in parts:
            yield _sub_block(unet, f"OUT{next(number):02d}", coarse, part)


def _by_layer(block: nn.Module, prefix: str) -> list[tuple[str, ...]]:
    """Each resnet's prefix with that of the attention beside it, if there is one."""
    attentions = getattr(block, "attentions", None) or ()
    return [
        (f"{prefix}.resnets.{j}",) + ((f"{prefix}.attentions.{j}",) if j < len(attentions) else ())
        for j in range(len(block.resnets))
    ]


def _sub_block(unet: nn.Module, name: str, coarse: str, prefixes: tuple[str, ...]) -> SubBlock:
    layers = tuple(
        Layer(layer, "attention" if ".attentions." in layer else "conv", shape)
        for prefix in prefixes
        for layer, shape in found_in(unet.get_submodule(prefix), prefix)
    )
    return SubBlock(name, coarse, prefixes, layers)
