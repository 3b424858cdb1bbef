"""The named blocks of a U-Net, read off its own module tree.

The U of Stable Diffusion has two grains of names:

    coarse      in0 in1 ...        mid   out0 out1 ...      the paper's; one per resolution
    sub-block   IN01 IN02 ...      MID   OUT00 OUT01 ...    the community's; one per layer

A sub-block is one resnet with the attention beside it, or a downsampler; an upsampler belongs to
the last resnet before it. Counting them through the model gives the numbers of the original
Stable Diffusion code (`input_blocks.N`, `output_blocks.N`): IN00 is `conv_in`, so the first is
IN01. Nothing here is a list for a certain model: SD 1.x, SD 2.x, SDXL and smaller relatives all
follow from the same walk.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from types import MappingProxyType
from typing import Literal, get_args

from torch import nn

from blockwise_lora.errors import UserError

Kind = Literal["attention", "conv"]
"""`attention`: the layers of transformer blocks with their proj_in and proj_out (which SD 1.x
makes 1x1 convolutions). `conv`: resnets, downsamplers, upsamplers, and the resnets' time_emb_proj.
"""


class StructureError(UserError):
    """A model that has no U of blocks."""


@dataclass(frozen=True)
class Layer:
    """A linear or convolution layer; `shape` is its weight's, (out, in) or (out, in, k, k)."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class SubBlock:
    """The finest named part of the U.

    Attributes:
        name: such as IN04, MID, OUT11.
        coarse: the coarse block that it is part of, such as in1.
        prefixes: the module names that it consists of.
        layers: every linear and convolution layer in it, in the order of the model.
    """

    name: str
    coarse: str
    prefixes: tuple[str, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class BlockMap:
    """A denoiser's blocks in the order in which the signal passes them.

    Attributes:
        sub_blocks: from IN01 over MID to the last OUT.
        left_out: top-level modules with parameters that belong to no block, hence to no mask
            (`conv_in`, `conv_out`, `conv_norm_out`, `time_embedding`, ...).
    """

    sub_blocks: tuple[SubBlock, ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, denoiser: nn.Module) -> "BlockMap":
        """Read the blocks off a U-Net of the diffusers kind.

        Weights are not touched: a model on the meta device will do. A wrapped layer (one with a
        `base_layer`) counts as the layer that it wraps, so the map stays the same once adapters
        are attached.

        Raises:
            StructureError: `denoiser` has no `down_blocks` and `up_blocks`.
        """
        if not all(hasattr(denoiser, part) for part in ("down_blocks", "up_blocks")):
            raise StructureError(
                f"{type(denoiser).__name__} has no down_blocks and up_blocks: blocks are known "
                "for U-Nets (Stable Diffusion 1.x, 2.x, XL and models of their structure)"
            )
        sub_blocks = (*_down(denoiser), *_mid(denoiser), *_up(denoiser))
        left_out = tuple(
            name
            for name, child in denoiser.named_children()
            if name not in ("down_blocks", "mid_block", "up_blocks")
            and any(True for _ in child.parameters())
        )
        return cls(sub_blocks, left_out)

    @property
    def names(self) -> tuple[str, ...]:
        """The sub-blocks' names, in order."""
        return tuple(block.name for block in self.sub_blocks)

    @cached_property
    def coarse(self) -> Mapping[str, tuple[str, ...]]:
        """Coarse block name to the names of its sub-blocks, both in order."""
        groups: dict[str, tuple[str, ...]] = {}
        for block in self.sub_blocks:
            groups[block.coarse] = (*groups.get(block.coarse, ()), block.name)
        return MappingProxyType(groups)

    @cached_property
    def layers(self) -> Mapping[str, tuple[SubBlock, Layer]]:
        """Full module name to its sub-block and layer."""
        return MappingProxyType(
            {layer.name: (block, layer) for block in self.sub_blocks for layer in block.layers}
        )

    @property
    def depth(self) -> int:
        """The number of coarse in-blocks, which is the number of resolutions."""
        return sum(name.startswith("in") for name in self.coarse)

    def modules(self, kind: Kind) -> dict[str, tuple[str, ...]]:
        """Sub-block name to the full names of its layers of this kind (empty where none)."""
        if kind not in get_args(Kind):
            raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, not {kind!r}")
        return {
            block.name: tuple(layer.name for layer in block.layers if layer.kind == kind)
            for block in self.sub_blocks
        }


def _down(denoiser: nn.Module) -> Iterator[SubBlock]:
    number = count(1)  # IN00 is conv_in
    for i, block in enumerate(denoiser.down_blocks):
        prefix, coarse = f"down_blocks.{i}", f"in{i}"
        for parts in _by_layer(block, prefix):
            yield _sub_block(denoiser, f"IN{next(number):02d}", coarse, parts)
        if getattr(block, "downsamplers", None):
            yield _sub_block(denoiser, f"IN{next(number):02d}", coarse, (f"{prefix}.downsamplers",))


def _mid(denoiser: nn.Module) -> Iterator[SubBlock]:
    if getattr(denoiser, "mid_block", None) is not None:
        yield _sub_block(denoiser, "MID", "mid", ("mid_block",))


def _up(denoiser: nn.Module) -> Iterator[SubBlock]:
    number = count(0)
    for i, block in enumerate(denoiser.up_blocks):
        prefix, coarse = f"up_blocks.{i}", f"out{i}"
        parts = _by_layer(block, prefix)
        if getattr(block, "upsamplers", None):
            parts[-1] += (f"{prefix}.upsamplers",)
        for part in parts:
            yield _sub_block(denoiser, f"OUT{next(number):02d}", coarse, part)


def _by_layer(block: nn.Module, prefix: str) -> list[tuple[str, ...]]:
    """Each resnet's prefix with that of the attention beside it, if there is one."""
    attentions = getattr(block, "attentions", None) or ()
    return [
        (f"{prefix}.resnets.{j}",) + ((f"{prefix}.attentions.{j}",) if j < len(attentions) else ())
        for j in range(len(block.resnets))
    ]


def _sub_block(denoiser: nn.Module, name: str, coarse: str, prefixes: tuple[str, ...]) -> SubBlock:
    layers = tuple(
        layer for prefix in prefixes for layer in _layers(denoiser.get_submodule(prefix), prefix)
    )
    return SubBlock(name, coarse, prefixes, layers)


def _layers(module: nn.Module, name: str) -> Iterator[Layer]:
    """The linear and convolution layers in `module`, without descending into wrapped ones."""
    core = getattr(module, "base_layer", module)
    if isinstance(core, nn.Linear | nn.Conv2d):
        kind: Kind = "attention" if ".attentions." in f"{name}." else "conv"
        yield Layer(name, kind, tuple(core.weight.shape))
        return
    for child_name, child in module.named_children():
        yield from _layers(child, f"{name}.{child_name}")
