"""The named blocks of a model, read off its own module tree.

Two grains of names:

    coarse      in0 in1 ...        mid   out0 out1 ...      the paper's; one per resolution
    sub-block   IN01 IN02 ...      MID   OUT00 OUT01 ...    the community's; one per layer

of U-Nets; `double`, D00 ... and `single`, S00 ... of transformers; and `base`, BASE, the text
encoders, where they are handed over. How each kind of model is walked: unet.py, transformer.py,
text_encoder.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from types import MappingProxyType
from typing import TypeVar, get_args

from torch import nn

from blockwise_lora.blocks import text_encoder, transformer, unet
from blockwise_lora.blocks.layers import Kind, Layer, SubBlock
from blockwise_lora.errors import UserError

T = TypeVar("T")


class StructureError(UserError):
    """A model that has no blocks known here."""


@dataclass(frozen=True)
class BlockMap:
    """A model's blocks in the order in which the signal passes them.

    Attributes:
        sub_blocks: BASE where text encoders are known, then from IN01 over MID to the last OUT,
            or from D00 to the last S.
        left_out: the denoiser's top-level modules with parameters that belong to no block, hence
            to no mask (`conv_in`, `conv_out`, `conv_norm_out`, `time_embedding`, ...).
    """

    sub_blocks: tuple[SubBlock, ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(cls, denoiser: nn.Module, *text_encoders: nn.Module) -> "BlockMap":
        """Read the blocks off a denoiser of the diffusers kind, and its text encoders.

        Weights are not touched: models on the meta device will do. A wrapped layer (one with a
        `base_layer`) counts as the layer that it wraps, so the map stays the same once adapters
        are attached.

        Args:
            denoiser: a U-Net or a transformer; its layers keep their names.
            text_encoders: they become the one sub-block BASE, with layers named
                `text_encoder.<module>`, `text_encoder_2.<module>`, ...; without them, there is
                no BASE.

        Raises:
            StructureError: `denoiser` is neither a U-Net nor a transformer with blocks.
        """
        if unet.is_unet(denoiser):
            parts, sub_blocks = unet.PARTS, unet.unet_blocks(denoiser)
        elif transformer.is_transformer(denoiser):
            parts, sub_blocks = transformer.PARTS, transformer.transformer_blocks(denoiser)
        else:
            raise StructureError(
                f"{type(denoiser).__name__} has no down_blocks and up_blocks, and no "
                "transformer_blocks: blocks are known for U-Nets (Stable Diffusion 1.x, 2.x, XL) "
                "and transformers (FLUX, Stable Diffusion 3) of the diffusers kind"
            )
        base = (text_encoder.base_block(text_encoders),) if text_encoders else ()
        left_out = tuple(
            name
            for name, child in denoiser.named_children()
            if name not in parts and any(True for _ in child.parameters())
        )
        return cls((*base, *sub_blocks), left_out)

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
    def denoiser_names(self) -> tuple[str, ...]:
        """The sub-blocks' names without BASE, which is what `all` means."""
        return tuple(name for name in self.names if name != text_encoder.BASE)

    @property
    def depth(self) -> int:
        """The number of coarse in-blocks: the resolutions of a U-Net, 0 for a transformer."""
        return sum(name.startswith("in") for name in self.coarse)

    def runs(self, values: Mapping[str, T]) -> list[tuple[str, T]]:
        """Values by sub-block, said as shortly as masks can: neighbours of one value as a range.

        Args:
            values: sub-block to value; those that are missing break a range.

        Returns:
            Pairs of what a mask would call the sub-blocks (all, in0-in2, IN03-OUT01, mid) and their
            value, in the model's order, the text encoder last.
        """
        names = [*self.denoiser_names, *(set(self.names) - set(self.denoiser_names))]
        steps = groupby(names, lambda n: (n == text_encoder.BASE, n in values, values.get(n)))
        return [(self._span(tuple(run)), value) for (_, known, value), run in steps if known]

    def _span(self, names: tuple[str, ...]) -> str:
        if names == self.denoiser_names:
            return "all"
        home = {name: coarse for coarse, members in self.coarse.items() for name in members}
        # Only a coarse block that the range holds whole may stand for its end.
        whole = {coarse for coarse, members in self.coarse.items() if set(members) <= set(names)}
        first, last = (home[n] if home[n] in whole else n for n in (names[0], names[-1]))
        return first if first == last else f"{first}-{last}"

    def modules(self, kind: Kind) -> dict[str, tuple[str, ...]]:
        """Sub-block name to the full names of its layers of this kind (empty where none)."""
        if kind not in get_args(Kind):
            raise ValueError(f"kind is one of {', '.join(get_args(Kind))}, not {kind!r}")
        return {
            block.name: tuple(layer.name for layer in block.layers if layer.kind == kind)
            for block in self.sub_blocks
        }
