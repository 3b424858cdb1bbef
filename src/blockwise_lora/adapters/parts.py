"""The parts of a model that adapters can be attached to, under one set of layer names."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from blockwise_lora.blocks.structure import BlockMap


@dataclass(frozen=True)
class Parts:
    """A denoiser and the text encoders that belong to it.

    The denoiser's layers go by their own names, the encoders' by `text_encoder.<module>` and
    `text_encoder_2.<module>`, as in `BlockMap` and in diffusers' files. Every function of this
    package that takes a model takes a bare denoiser, too.

    Attributes:
        denoiser: a diffusers U-Net or transformer.
        text_encoders: in the pipeline's order; the block BASE.
    """

    denoiser: nn.Module
    text_encoders: tuple[nn.Module, ...] = ()

    @classmethod
    def of(cls, model: "Model") -> "Parts":
        """A bare denoiser as parts; parts stay as they are."""
        return model if isinstance(model, Parts) else cls(model)

    @property
    def blocks(self) -> BlockMap:
        """The blocks of all parts."""
        return BlockMap.of(self.denoiser, *self.text_encoders)

    def named(self) -> Iterator[tuple[str, nn.Module]]:
        """The prefix of the layers' names, and the part: "" and the denoiser first."""
        yield "", self.denoiser
        for number, encoder in enumerate(self.text_encoders, start=1):
            yield ("text_encoder." if number == 1 else f"text_encoder_{number}."), encoder

    def locate(self, name: str) -> tuple[nn.Module, str]:
        """The module that holds a layer as its child, and the child's name there."""
        for prefix, part in reversed([*self.named()]):
            if name.startswith(prefix):
                path, _, child = name.removeprefix(prefix).rpartition(".")
                return part.get_submodule(path), child
        raise AssertionError("the denoiser's prefix is empty")

    def get(self, name: str) -> nn.Module:
        """A layer, wrapped or not, by its full name."""
        parent, child = self.locate(name)
        return getattr(parent, child)


Model = nn.Module | Parts


def part_of(layer: str) -> str:
    """Which file section a layer belongs to: unet, text_encoder or text_encoder_2."""
    first = layer.partition(".")[0]
    return first if first.startswith("text_encoder") else "unet"
