"""How other tools call the layers of a model.

    up_blocks.1.attentions.0.proj_in                       diffusers, and this project
    output_blocks.3.1.proj_in                              the original Stable Diffusion code (sgm)
    lora_unet_up_blocks_1_attentions_0_proj_in             kohya, from diffusers' name: SD 1.x, 2.x
    lora_unet_output_blocks_3_1_proj_in                    kohya, from sgm's name: SDXL

A joined name cannot be split again by itself, since layers' own names hold underscores (`to_q`,
`down_blocks`). So the way forward is worked out for every layer of a model, and inverted.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from torch import nn

from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.blocks.dialects import is_sdxl, original_name
from blockwise_lora.blocks.layers import SubBlock, found_in
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.blocks.unet import is_unet

Family = Literal["sd1", "sd2", "sdxl"]
"""Which of Stable Diffusion's structures a model has, whatever its size: `sd2` and `sdxl` have
linear layers for proj_in and proj_out, and the tools name the layers of `sdxl` in sgm's way."""

REST = "REST"
"""In place of a sub-block, for layers outside of all blocks: `conv_in`, `time_embedding`, ..."""

_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}


@dataclass(frozen=True)
class Place:
    """Where a layer lies, and its weight's shape, (out, in) or (out, in, k, k)."""

    sub_block: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Names:
    """The layers of one model under all their names.

    Attributes:
        family: the model's structure.
        places: layer to its place, for all linear and convolution layers; layers of text encoders
            begin with `text_encoder.` or `text_encoder_2.`.
        original: layer of the U-Net to its name in the original code.
        encoders: number of text encoders.
    """

    family: Family
    places: Mapping[str, Place]
    original: Mapping[str, str]
    encoders: int

    @classmethod
    def of(cls, unet: nn.Module, *text_encoders: nn.Module) -> "Names":
        """Read them off a model; weights are not touched, the meta device will do.

        Raises:
            AdapterError: the denoiser is no U-Net.
        """
        if not is_unet(unet):
            raise AdapterError(
                f"{type(unet).__name__} is no U-Net: adapter files are read and converted for "
                "Stable Diffusion 1.x, 2.x and XL"
            )
        blocks = BlockMap.of(unet)
        places = {
            name: Place(block.name, layer.shape) for name, (block, layer) in blocks.layers.items()
        }
        places |= {name: Place(REST, s) for name, s in _layers(unet) if name not in places}
        for i, encoder in enumerate(text_encoders):
            prefix = "text_encoder." if i == 0 else f"text_encoder_{i + 1}."
            places |= {prefix + layer: Place("BASE", shape) for layer, shape in _layers(encoder)}
        original = {ours: theirs for ours, theirs in _OUTSIDE.items() if ours in places}
        for block in blocks.sub_blocks:
            original |= _originals(block, original_name(block, unet))
        return cls(family_of(unet), MappingProxyType(places), original, len(text_encoders))

    @cached_property
    def layers(self) -> Mapping[str, str]:
        """Every spelling that a file may use, joined or with dots, to the layer.

        Raises:
            ValueError: two layers share one spelling; no model that is known does that.
        """
        found: dict[str, str] = {}
        for layer in self.places:
            for spelling in self._spellings(layer):
                if found.setdefault(spelling, layer) != layer:
                    raise ValueError(f"{layer} and {found[spelling]} are both spelled {spelling}")
        return found

    def joined(self, layer: str) -> str:
        """The name that kohya's scripts give to a layer of this model.

        Raises:
            AdapterError: the model has no such layer.
        """
        if layer not in self.places:
            raise AdapterError(
                f"the base model has no layer {layer}: name the one that the adapter is for"
            )
        if layer.startswith("text_encoder"):
            number, _, module = with_text_model(layer).partition(".")
            numbered = {"text_encoder": "1", "text_encoder_2": "2"}[number]
            return f"lora_te{numbered if self.encoders > 1 else ''}_{_join(module)}"
        name = self.original.get(layer, layer) if self.family == "sdxl" else layer
        return f"lora_unet_{_join(name)}"

    def _spellings(self, layer: str) -> Iterator[str]:
        yield layer
        if layer.startswith("text_encoder"):
            number, _, module = with_text_model(layer).partition(".")
            yield f"{number}.{module}"
            yield f"{number}.{module.removeprefix('text_model.')}"
            for digit in {"text_encoder": ("", "1"), "text_encoder_2": ("2",)}.get(number, ()):
                yield f"lora_te{digit}_{_join(module)}"
            return
        for name in {layer, self.original.get(layer, layer)}:
            yield f"lora_unet_{_join(name)}"
            yield f"lycoris_{_join(name)}"


def family_of(unet: nn.Module) -> Family:
    """The structure that a U-Net has, by its configuration."""
    if is_sdxl(unet):
        return "sdxl"
    return "sd2" if getattr(unet.config, "use_linear_projection", False) else "sd1"


def with_text_model(layer: str) -> str:
    """A text encoder's layer as files name it, whatever the installed transformers calls it.

    The module between the encoder and its layers, `text_model`, is gone from newer versions of
    `CLIPTextModel`, but not from files.
    """
    number, _, module = layer.partition(".")
    if not number.startswith("text_encoder") or module.startswith(("text_model.", "text_proj")):
        return layer
    return f"{number}.text_model.{module}"


def ordered(sub_blocks: Iterable[str]) -> list[str]:
    """Sub-blocks' names in the order of the model: BASE, IN01, ..., MID, OUT00, ..., REST."""
    sides = ("BASE", "IN", "D", "MID", "S", "OUT", REST)
    return sorted(sub_blocks, key=lambda name: (sides.index(name.rstrip("0123456789")), name))


def _layers(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, child in model.named_children():
        yield from found_in(child, name)


def _join(name: str) -> str:
    return name.replace(".", "_")


def _originals(block: SubBlock, stem: str) -> dict[str, str]:
    """The names of a sub-block's layers in the original code.

    There a sub-block is a sequence: a resnet, the attention beside it, an upsampler; or a
    downsampler alone.
    """
    parts = _middle(block) if block.name == "MID" else block.prefixes
    prefixes = {prefix: f"{stem}.{i}" for i, prefix in enumerate(parts)}
    return {
        layer.name: f"{theirs}.{_inside(layer.name.removeprefix(f'{ours}.'), ours)}"
        for layer in block.layers
        for ours, theirs in prefixes.items()
        if layer.name.startswith(f"{ours}.")
    }


def _middle(block: SubBlock) -> Iterator[str]:
    """Resnet 0, attention 0, resnet 1, attention 1, ...: the middle block's parts in order."""
    parts = {tuple(layer.name.split(".")[1:3]) for layer in block.layers}
    for kind, number in sorted(parts, key=lambda p: (int(p[1]), p[0] == "attentions")):
        yield f"mid_block.{kind}.{number}"


def _inside(layer: str, prefix: str) -> str:
    """A layer's name within its resnet, attention, downsampler or upsampler."""
    if ".resnets." in f"{prefix}.":
        return _RESNET.get(layer, layer)
    if prefix.endswith("samplers"):
        return "op" if prefix.endswith("downsamplers") else "conv"
    return layer
