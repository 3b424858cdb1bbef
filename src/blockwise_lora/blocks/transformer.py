"""The blocks of a diffusion transformer: FLUX, Stable Diffusion 3 and their relatives.

D00, D01 ... are the blocks that keep text and picture in two streams (`transformer_blocks`: FLUX's
double blocks, SD3's joint ones), S00, S01 ... those where both are one (FLUX's single blocks).
Their coarse blocks are the groups `double` and `single`.
"""

from collections.abc import Iterator

from torch import nn

from blockwise_lora.blocks.layers import Layer, SubBlock, found_in

PARTS = {
    "transformer_blocks": ("D", "double"),
    "joint_transformer_blocks": ("D", "double"),
    "single_transformer_blocks": ("S", "single"),
}
"""Module list to the letter and the coarse name of its members."""


def is_transformer(denoiser: nn.Module) -> bool:
    """Whether it has transformer blocks right below it."""
    return any(isinstance(getattr(denoiser, part, None), nn.ModuleList) for part in PARTS)


def block_of(layer: str) -> str | None:
    """The sub-block that a layer's full name tells; None outside of all blocks."""
    part, _, rest = layer.partition(".")
    number = rest.partition(".")[0]
    return f"{PARTS[part][0]}{int(number):02d}" if part in PARTS and number.isdecimal() else None


def transformer_blocks(transformer: nn.Module) -> tuple[SubBlock, ...]:
    """The sub-blocks, double ones before single ones."""
    return tuple(_blocks(transformer))


def _blocks(transformer: nn.Module) -> Iterator[SubBlock]:
    for part, (letter, coarse) in PARTS.items():
        for i, block in enumerate(getattr(transformer, part, None) or ()):
            prefix = f"{part}.{i}"
            layers = tuple(
                Layer(name, "conv" if _is_norm(name) else "attention", shape)
                for name, shape in found_in(block, prefix)
            )
            yield SubBlock(f"{letter}{i:02d}", coarse, (prefix,), layers)


def _is_norm(name: str) -> bool:
    """Whether a layer belongs to an adaptive norm, which scales and shifts by the time step."""
    return any(part.startswith("norm") for part in name.split("."))
