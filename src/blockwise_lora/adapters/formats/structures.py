"""Which model an adapter is for, where only the adapter is at hand."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import get_args

import torch

from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.formats.names import Family, Names
from blockwise_lora.adapters.metadata import FAMILY

_SDXL = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "transformer_layers_per_block": (1, 2, 10),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
    "use_linear_projection": True,
}
# Sizes do not matter to names; the depths are the largest of each family, so that models with
# fewer layers are known, too: CLIP ViT-L has 12 layers, OpenCLIP ViT-H 24, ViT-bigG 32.
_UNETS: dict[Family, dict] = {"sd1": {}, "sd2": {"use_linear_projection": True}, "sdxl": _SDXL}
_ENCODERS: dict[Family, tuple[int, ...]] = {"sd1": (12,), "sd2": (24,), "sdxl": (12, 32)}
_WORDS: dict[Family, tuple[str, ...]] = {
    "sdxl": ("sdxl", "stable-diffusion-xl"),
    "sd1": ("sd_v1", "stable-diffusion-v1"),
    "sd2": ("sd_v2", "stable-diffusion-v2"),
}
_SGM = ("lora_unet_input_blocks_", "lora_unet_middle_block_", "lora_unet_output_blocks_")
_TEXT_WIDTHS: dict[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl"}


@cache
def known(family: Family) -> Names:
    """The names of a family, from models of its structure without weights.

    A resnet has a shortcut only where the width changes, which depends on a model's size: a
    second one, in which each level is wider than the one before, has them all.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = _UNETS[family]
    widening = tuple(64 * (i + 1) for i in range(len(config.get("down_block_types", "four"))))
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        every = Names.of(UNet2DConditionModel(**config | {"block_out_channels": widening}))
        encoders = [
            (CLIPTextModel if i == 0 else CLIPTextModelWithProjection)(
                CLIPTextConfig(num_hidden_layers=depth)
            )
            for i, depth in enumerate(_ENCODERS[family])
        ]
    names = Names.of(unet, *encoders)
    return replace(
        names, places={**every.places, **names.places}, original=every.original | names.original
    )


def fitting(spellings: Iterable[str], path: object) -> tuple[Names, ...]:
    """The known families that have all these layers, in the order of their age.

    Args:
        spellings: layers as a file names them.
        path: the file, for the error.

    Raises:
        AdapterError: none has them all.
    """
    spellings = list(spellings)
    unknown: list[str] = []
    fits = []
    for family in get_args(Family):
        strange = [name for name in spellings if name not in known(family).layers]
        if not strange:
            fits.append(known(family))
        if not unknown or len(strange) < len(unknown):
            unknown = strange
    if not fits:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise AdapterError(
            f"{path} is for a model that is not known here: no Stable Diffusion 1.x, 2.x or XL "
            f"has a layer {unknown[0]}{more}. Name the base model that it was trained on"
        )
    return tuple(fits)


def evidence(metadata: Mapping[str, str], widths: Mapping[str, int]) -> set[Family]:
    """The families that an adapter can be for, by what its file says and its tensors' shapes.

    Args:
        metadata: of the file.
        widths: layer, under the file's name for it, to its number of inputs. Those of layers that
            read the text encoder's output tell, and names in sgm's way.

    Returns:
        All families where nothing tells.
    """
    everything: set[Family] = set(get_args(Family))
    if metadata.get(FAMILY) in everything:
        return {metadata[FAMILY]}
    said = " ".join(
        str(metadata.get(key, "")).lower()
        for key in ("ss_base_model_version", "modelspec.architecture")
    )
    for family, words in _WORDS.items():
        if any(word in said for word in words):
            return {family}
    reading = ("attn2.to_k", "attn2.to_v", "attn2_to_k", "attn2_to_v")
    found = {_TEXT_WIDTHS.get(n) for layer, n in widths.items() if layer.endswith(reading)}
    if found & everything:
        return found & everything
    return {"sdxl"} if any(layer.startswith(_SGM) for layer in widths) else everything


def settle(fits: tuple[Names, ...], left: set[Family]) -> Names | None:
    """The one family, or None where it stays open whether layers are named in sgm's way."""
    likely = tuple(names for names in fits if names.family in left) or fits
    if len({names.family == "sdxl" for names in likely}) > 1:
        return None
    return likely[0]
