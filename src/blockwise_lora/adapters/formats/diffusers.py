"""Diffusers' files, `pytorch_lora_weights.safetensors`, now and in earlier years.

    unet.<layer>.lora_A.weight                    PEFT's names behind the part's
    unet.<layer>.attn1.to_q.lora.down.weight      before that
    unet.<layer>.attn1.processor.to_q_lora.down.weight    at first, and without `unet.`, too
    text_encoder.text_model.<layer>.lora_linear_layer.down.weight

Where the denoiser is a transformer, `unet` is `transformer`.
PEFT's configuration is in the metadata. Without it alpha is the rank, unless there are keys
`<layer>.alpha`, as files converted from kohya's have them.
"""

import json
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from blockwise_lora.adapters import metadata as about
from blockwise_lora.adapters.adapter import state
from blockwise_lora.adapters.formats import peft_names
from blockwise_lora.adapters.formats.names import with_text_model
from blockwise_lora.adapters.formats.peft import by_part
from blockwise_lora.adapters.formats.peft_form import peft_form, plain_config, shapes
from blockwise_lora.adapters.formats.peft_names import LayerContent, Numbers
from blockwise_lora.adapters.parts import part_of
from blockwise_lora.adapters.updates import Dora, Kronecker, LowRank, Update
from blockwise_lora.blocks import transformer

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"

_OLD = re.compile(r"\.(?:lora|lora_linear_layer)\.(up|down)\.weight$")
_OLDEST = re.compile(r"\.(?:processor\.)?to_(q|k|v|out)_lora\.(up|down)\.weight$")
_OLDEST_ALPHA = re.compile(r"\.(?:processor\.)?to_(q|k|v|out)_lora\.alpha$")
_AB = {"down": "lora_A.weight", "up": "lora_B.weight"}


def parse(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, LayerContent]:
    """A file's layers; those of the denoiser without `unet.` or `transformer.`.

    Raises:
        ValueError: the file is damaged or not understood.
    """
    tensors = {_modern(key): tensor for key, tensor in tensors.items()}
    alphas = {k.removesuffix(".alpha"): t for k, t in tensors.items() if k.endswith(".alpha")}
    rest = {key: tensor for key, tensor in tensors.items() if not key.endswith(".alpha")}
    parts: dict[str, dict[str, dict[str, Tensor]]] = {}
    for layer, own in peft_names.grouped(rest).items():
        part = part_of(layer)
        parts.setdefault(part, {})[layer.removeprefix(f"{part}.")] = own
    configs = _configs(metadata)
    found: dict[str, LayerContent] = {}
    for part, layers in parts.items():
        prefix = "" if part == "unet" else f"{part}."
        if part in configs:
            own = peft_names.configured(layers, configs[part])
        else:
            own = {layer: _plain(prefix + layer, t, alphas) for layer, t in layers.items()}
        found |= {prefix + layer: content for layer, content in own.items()}
    if stray := alphas.keys() - found.keys():
        raise ValueError(f"{min(stray)} has an alpha and nothing else")
    return found


def check_names(names: Iterable[str]) -> None:
    """Refuse tensors that are of no method, by their names alone.

    Raises:
        ValueError: with the first one.
    """
    for key in sorted(map(_modern, names)):
        if not key.endswith(".alpha"):
            peft_names.matched(key)


def encode(updates: Mapping[str, Update]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, and PEFT's configuration as metadata; to the bit, as in PEFT's directories.

    `pipe.load_lora_weights` loads LoRA, LoCon and DoRA; LoKr is for
    `pipe.unet.load_lora_adapter(..., prefix="unet")`. For other methods, which diffusers cannot
    load, the configuration has another key, which this project reads back: there the block size of
    OFT is each layer's own, told by its tensor.

    Raises:
        AdapterError: PEFT has no configuration for it.
    """
    denoiser = "transformer" if any(map(transformer.block_of, updates)) else "unet"
    flat: dict[str, object] = {}
    formed: dict[str, Update] = {}
    for part, own in by_part(updates).items():
        own, config = peft_form(own)
        named = denoiser if part == "unet" else part
        flat |= {f"{named}.{key}": value for key, value in plain_config(config).items()}
        formed |= {layer if part == "unet" else f"{part}.{layer}": x for layer, x in own.items()}
    tensors = {_in_file(key, denoiser): tensor for key, tensor in state(formed).items()}
    text = json.dumps(flat, sort_keys=True, separators=(",", ":"))
    key = about.DIFFUSERS_CONFIG if loadable(formed) else about.PEFT_CONFIG
    return tensors, {key: text} | shapes(formed)


def loadable(updates: Mapping[str, Update]) -> bool:
    """Whether diffusers knows the methods."""
    return all(isinstance(update, LowRank | Dora | Kronecker) for update in updates.values())


def _in_file(key: str, denoiser: str) -> str:
    """Diffusers puts a part's name before every key; the text encoders' layers have it already."""
    return f"{denoiser}.{key}" if part_of(key) == "unet" else with_text_model(key)


def _configs(metadata: Mapping[str, str]) -> dict[str, dict[str, object]]:
    """PEFT's configuration by part, as far as there is one."""
    try:
        flat = json.loads(
            metadata.get(about.DIFFUSERS_CONFIG) or metadata.get(about.PEFT_CONFIG) or "{}"
        )
        parts: dict[str, dict[str, object]] = {}
        for key, value in flat.items():
            part, _, name = key.partition(".")
            parts.setdefault("unet" if part == "transformer" else part, {})[name] = value
    except (ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"PEFT's configuration in the metadata is damaged: {error}") from None
    return parts


def _plain(layer: str, tensors: Mapping[str, Tensor], alphas: Mapping[str, Tensor]) -> LayerContent:
    """A layer of which no configuration tells: alpha is the rank, or stored beside it."""
    rank = peft_names.size_of(tensors)
    if not rank:
        raise ValueError(
            f"{layer} has a strength that only PEFT's configuration tells, which is not there"
        )
    if layer not in alphas:
        return LayerContent(tensors, Numbers(1.0, rank))
    if alphas[layer].numel() != 1:
        raise ValueError(f"{layer} has an alpha that is not one number")
    return LayerContent(tensors, Numbers(alphas[layer].item() / rank, rank))


def _modern(key: str) -> str:
    """A key in today's form, without the denoiser's own prefix."""
    key = key.removeprefix("unet.").removeprefix("transformer.")
    encoder = key.startswith("text_encoder")
    if match := _OLDEST.search(key):
        return f"{key[: match.start()]}.{_projection(match[1], encoder)}.{_AB[match[2]]}"
    if match := _OLDEST_ALPHA.search(key):
        return f"{key[: match.start()]}.{_projection(match[1], encoder)}.alpha"
    if match := _OLD.search(key):
        return f"{key[: match.start()]}.{_AB[match[1]]}"
    return re.sub(r"\.(?:lora|lora_linear_layer)\.alpha$", ".alpha", key)


def _projection(letter: str, encoder: bool) -> str:
    """The layer behind one of attention's four projections."""
    if encoder:
        return f"{letter}_proj"
    return "to_out.0" if letter == "out" else f"to_{letter}"
