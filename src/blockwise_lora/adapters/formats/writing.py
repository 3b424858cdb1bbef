"""Writing an adapter in any format that can hold it."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from blockwise_lora.adapters import metadata as about
from blockwise_lora.adapters import tensorfile
from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.formats import diffusers, kohya, lycoris, peft
from blockwise_lora.adapters.formats.names import Names
from blockwise_lora.adapters.formats.reading import Format
from blockwise_lora.adapters.formats.structures import evidence, fitting, settle
from blockwise_lora.atomic import write_bytes, write_text

_OF_THE_FORMAT = (
    *(about.DIFFUSERS_CONFIG, about.PEFT_CONFIG, about.SHAPES),
    *("ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args"),
    *("sshs_model_hash", "sshs_legacy_hash"),
)
"""Metadata that tell of the file's format or bytes, and hold for no other."""


def write(
    adapter: Adapter, path: str | Path, format: Format, *, names: Names | None = None
) -> Path:
    """Write an adapter, to the bit where the format can hold it, otherwise equal in effect.

    16-bit tensors stay as they are, unless some have to be rescaled: then all become float32.
    Metadata come along, but for those that tell of the old format.

    Args:
        adapter: what to write.
        path: `kohya` and `lycoris`: a new file, `*.safetensors`; `diffusers`: that, or a folder
            for `pytorch_lora_weights.safetensors`; `peft`: a new folder.
        format: one of the four.
        names: of the model that it is for, where neither names nor metadata nor shapes tell.

    Returns:
        The file, or the folder of a PEFT directory.

    Raises:
        AdapterError: the format cannot hold it, or the target is there already.
        WriteError: the target cannot be written.
    """
    path = Path(path)
    if not adapter.updates:
        raise AdapterError(f"{path} cannot be written: the adapter changes no layers")
    if format not in get_args(Format):
        raise AdapterError(f"format is one of {', '.join(get_args(Format))}, not {format!r}")
    if format == "peft":
        return _write_directory(adapter, path)
    if format == "diffusers" and path.suffix != ".safetensors":
        path = path / diffusers.WEIGHTS_FILE
    if path.suffix != ".safetensors":
        raise AdapterError(f"{path} is to be a file: give it a name that ends in .safetensors")
    _check_free(path)
    if format == "diffusers":
        tensors, own = _for_diffusers(adapter)
    else:
        names = names or _names(adapter, path)
        encode = kohya.encode if format == "kohya" else lycoris.encode
        tensors, own = encode(adapter.updates, names)
    write_bytes(path, tensorfile.encode(of_one_type(tensors), _metadata(adapter, own)))
    return path


def of_one_type(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All weights as float32 where any of them is; numbers of no dimension do not count."""
    weights = {key: tensor for key, tensor in tensors.items() if tensor.dim()}
    if len({tensor.dtype for tensor in weights.values()}) > 1:
        weights = {key: tensor.to(torch.float32) for key, tensor in weights.items()}
    return {**tensors, **weights}


def _for_diffusers(adapter: Adapter) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not diffusers.loadable(adapter.updates):
        kinds = sorted({type(update).__name__ for update in adapter.updates.values()})
        raise AdapterError(
            f"diffusers knows LoRA, LoCon, DoRA and LoKr, and this adapter is made of "
            f"{', '.join(kinds)}: write format peft instead (or lycoris, where it is not OFT)"
        )
    return diffusers.encode(adapter.updates)


def _write_directory(adapter: Adapter, path: Path) -> Path:
    if path.suffix == ".safetensors":
        raise AdapterError(f"{path} is to be a folder, which PEFT's format is: leave the ending")
    encoded = peft.encode(adapter.updates)
    folders = {part: path if [*encoded] == ["unet"] else path / part for part in encoded}
    for folder in folders.values():
        _check_free(folder / peft.CONFIG_FILE)
        _check_free(folder / peft.WEIGHTS_FILE)
    for part, own in encoded.items():
        data = tensorfile.encode(of_one_type(own.tensors), _metadata(adapter, own.metadata))
        write_bytes(folders[part] / peft.WEIGHTS_FILE, data)
        write_text(folders[part] / peft.CONFIG_FILE, own.config)
    return path


def _check_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise AdapterError(f"{path} is there already: choose another name, or move it away")


def _metadata(adapter: Adapter, own: Mapping[str, str]) -> dict[str, str]:
    kept = {key: text for key, text in adapter.metadata.items() if key not in _OF_THE_FORMAT}
    return kept | {"format": "pt"} | own


def _names(adapter: Adapter, path: Path) -> Names:
    widths = {layer: update.shape[1] for layer, update in adapter.updates.items()}
    fits = fitting(adapter.updates, "the adapter")
    names = settle(fits, evidence(adapter.metadata, widths))
    if names is None:
        raise AdapterError(
            f"{path} cannot be written: the layers of the adapter are in Stable Diffusion 1.x and "
            "in XL, and are named differently in their files. Name the base model"
        )
    return names
