"""Reading an adapter of any format, told by its content."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from blockwise_lora.adapters import metadata as about
from blockwise_lora.adapters import tensorfile
from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.formats import diffusers, lycoris, peft, peft_names
from blockwise_lora.adapters.formats.names import Names
from blockwise_lora.adapters.formats.peft_names import LayerContent
from blockwise_lora.adapters.formats.structures import FAMILY, evidence, fitting, settle
from blockwise_lora.adapters.updates import Update
from blockwise_lora.errors import UserError

Format = Literal["diffusers", "peft", "kohya", "lycoris"]

_TYPES = (torch.float32, torch.float16, torch.bfloat16)
_STRANGERS = {
    "lora_transformer_": "a transformer (FLUX, Stable Diffusion 3)",
    "transformer.": "a transformer (FLUX, Stable Diffusion 3)",
    "diffusion_model.": "a transformer (Wan, FLUX, Z-Image and others)",
    "model.diffusion_model.": "a whole model, not an adapter",
    "lora_prior_": "Stable Cascade",
}


@dataclass(frozen=True)
class Content:
    """What is in a file or directory, before its layers are looked up in a model.

    Attributes:
        format: of the file.
        layers: by the file's own name for them.
        metadata: of the file; of a directory's first part.
        sha256: of the file's bytes, or of the hashes of a directory's parts.
    """

    format: Format
    layers: Mapping[str, LayerContent]
    metadata: Mapping[str, str]
    sha256: str


def read(path: str | Path, names: Names | None = None) -> Adapter:
    """Read an adapter of any format that is known here.

    Args:
        path: a file, a PEFT directory, or a folder with diffusers' file.
        names: of the model that it is for; None: whichever of SD 1.x, 2.x and XL has its layers.

    Raises:
        AdapterError: the file is missing, damaged, not safetensors, of an unknown format or
            method, or for another model.
    """
    return assemble(open_content(path), path, names)


def open_content(path: str | Path) -> Content:
    """What is in a file or directory, with its format.

    Raises:
        AdapterError: as `read`.
    """
    path = Path(path)
    if path.name in (peft.WEIGHTS_FILE, peft.CONFIG_FILE) and peft.folders(path.parent):
        path = path.parent
    try:
        if path.is_dir() and (parts := peft.folders(path)):
            return _directory(parts)
        file = tensorfile.read(path / diffusers.WEIGHTS_FILE if path.is_dir() else path)
        _check(file.tensors)
        kind = detect(file.tensors, file.metadata)
        if kind == "diffusers":
            layers = diffusers.parse(file.tensors, file.metadata)
        else:
            layers = lycoris.parse(file.tensors)
    except ValueError as error:
        raise AdapterError(f"{path} cannot be used: {error}") from error
    return Content(kind, layers, file.metadata, file.sha256)


def detect(keys: Iterable[str], metadata: Mapping[str, str] = MappingProxyType({})) -> Format:
    """The format of a single file, by its tensors' names.

    Raises:
        ValueError: unknown, or several formats in one.
    """
    keys = list(keys)
    if not keys:
        raise ValueError("it holds no tensors")
    joined = [key for key in keys if key.startswith(lycoris.PREFIXES)]
    if joined and len(joined) < len(keys):
        strange = next(key for key in keys if not key.startswith(lycoris.PREFIXES))
        raise ValueError(f"most of it is in kohya's format, but tensor {strange} is not")
    if joined:
        plain = ("lora_down.weight", "lora_up.weight", "alpha")
        other = "lycoris" in metadata.get("ss_network_module", "")
        simple = all(key.partition(".")[2] in plain for key in keys)
        return "kohya" if simple and not other else "lycoris"
    for prefix, what in _STRANGERS.items():
        if any(key.startswith(prefix) for key in keys):
            raise ValueError(f"it is for {what}; Stable Diffusion 1.x, 2.x and XL are read here")
    if any(key.startswith(peft.PREFIX) for key in keys):
        raise ValueError(
            f"it is the {peft.WEIGHTS_FILE} of a PEFT directory: name the directory, with the "
            f"{peft.CONFIG_FILE} in it, which says how strong the adapter is"
        )
    return "diffusers"


def assemble(content: Content, path: str | Path, names: Names | None = None) -> Adapter:
    """The adapter of what was read.

    Raises:
        AdapterError: as `read`.
    """
    fits = _fits(content, path, names)
    widths = {name: peft_names.width_of(own.tensors) for name, own in content.layers.items()}
    sure = settle(fits, evidence(content.metadata, widths))
    names = sure or fits[0]
    try:
        updates = _updates(content, names, about.read_shapes(content.metadata))
        spec = about.read_spec(content.metadata) if about.SPEC in content.metadata else None
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise AdapterError(f"{path} is damaged: {error}") from error
    metadata = dict(content.metadata) | ({FAMILY: names.family} if sure else {})
    return Adapter(
        MappingProxyType(updates),
        MappingProxyType({layer: names.places[layer].sub_block for layer in updates}),
        spec,
        MappingProxyType(metadata),
        content.sha256,
    )


def _fits(content: Content, path: object, names: Names | None) -> tuple[Names, ...]:
    if names is None:
        return fitting(content.layers, path)
    if strange := [layer for layer in content.layers if layer not in names.layers]:
        raise AdapterError(
            f"{path} is for a model of another structure: the one that was named has no layer "
            f"{strange[0]}. Name the base model that the adapter was trained on"
        )
    return (names,)


def _updates(
    content: Content, names: Names, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Update]:
    """In the model's order."""
    found: dict[str, Update] = {}
    for spelling, own in content.layers.items():
        layer = names.layers[spelling]
        if layer in found:
            raise ValueError(f"layer {layer} is there twice, under two names")
        try:
            shape = shapes.get(layer)
            found[layer] = peft_names.made(own, shape, names.places[layer].shape)
        except ValueError as error:
            raise ValueError(f"in {spelling}, {error}") from None
    return {layer: found[layer] for layer in names.places if layer in found}


def _directory(parts: Mapping[str, Path]) -> Content:
    layers: dict[str, LayerContent] = {}
    hashes, metadata = [], {}
    for part, folder in parts.items():
        file, own = peft.read(folder, part)
        _check(file.tensors)
        layers |= own
        hashes.append(file.sha256)
        metadata = file.metadata | metadata
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    return Content("peft", layers, metadata, hashes[0] if len(hashes) == 1 else digest)


def _check(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what no adapter holds.

    Raises:
        ValueError: numbers other than floats of 16 and 32 bits, or ones that are not finite.
    """
    for key, tensor in tensors.items():
        # LyCORIS stores a whole number as such, where it was given one as alpha.
        if tensor.dtype not in _TYPES and not key.endswith(".alpha"):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"tensor {key} is of type {kind}, not float32, float16 or bfloat16")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"tensor {key} is not finite: the training that made it diverged")
