"""Reading an adapter of any format, told by its content."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from blockwise_lora.adapters.formats.names import REST, Names, Place
from blockwise_lora.adapters.formats.peft_names import LayerContent
from blockwise_lora.adapters.formats.structures import evidence, fitting, settle
from blockwise_lora.adapters.parts import part_of
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.adapters.updates import Update
from blockwise_lora.adapters.words import LearnedWord
from blockwise_lora.blocks import transformer
from blockwise_lora.blocks.text_encoder import BASE
from blockwise_lora.errors import UserError

Format = Literal["diffusers", "peft", "kohya", "lycoris"]

_TYPES = (torch.float32, torch.float16, torch.bfloat16)
# LyCORIS stores a whole number as such, where it was given one as alpha.
_ALPHAS = (*_TYPES, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
_STRANGERS = {
    "lora_transformer_": "a transformer (FLUX, Stable Diffusion 3)",
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


@dataclass(frozen=True)
class Source:
    """An adapter and the format that it came in."""

    adapter: Adapter
    format: Format


def read(path: str | Path, names: Names | None = None) -> Adapter:
    """Read an adapter of any format that is known here, or that `save_adapter` wrote.

    Args:
        path: a file, a PEFT directory, or a folder with diffusers' file.
        names: of the model that it is for; None: as the file tells, or a transformer by its
            layers' names, or whichever of SD 1.x, 2.x and XL has the layers.

    Raises:
        AdapterError: the file is missing, damaged, not safetensors, of an unknown format or
            method, or for another model.
    """
    return read_source(path, names).adapter


def read_source(path: str | Path, names: Names | None = None) -> Source:
    """As `read`, with the format.

    Raises:
        AdapterError: as `read`.
    """
    content = _open(Path(path))
    try:
        spec = about.read_spec(content.metadata) if about.SPEC in content.metadata else None
        adapter = None
        if names is None:
            adapter = _told(content, spec) or _of_transformer(content, spec)
        adapter = adapter or _looked_up(content, spec, path, names)
    except AdapterError:
        raise
    except (*_DAMAGE, UserError) as error:
        raise AdapterError(
            f"{path} has damaged metadata or weights ({error}): fetch it again, or train it anew"
        ) from error
    return Source(replace(adapter, word=LearnedWord.read(Path(path))), content.format)


def _open(path: Path) -> Content:
    """What is in a file or directory, with its format.

    Raises:
        AdapterError: as `read`.
    """
    if path.name in (peft.WEIGHTS_FILE, peft.CONFIG_FILE) and peft.folders(path.parent):
        path = path.parent
    try:
        if path.is_dir() and (parts := peft.folders(path)):
            return _directory(parts)
        path = path / diffusers.WEIGHTS_FILE if path.is_dir() else path
        file = tensorfile.read(path, _admit)
        _check(file.tensors)
        kind = detect(file.tensors, file.metadata)
        if kind == "diffusers":
            layers = diffusers.parse(file.tensors, file.metadata)
        else:
            layers = lycoris.parse(file.tensors)
    except (ValueError, OverflowError) as error:
        raise AdapterError(f"{path} cannot be used: {error}") from error
    return Content(kind, layers, file.metadata, file.sha256)


def _admit(names: Sequence[str]) -> None:
    """Refuse what is no adapter by its tensors' names.

    Raises:
        ValueError: it is a whole model, or of no format or method that is known here.
    """
    if detect(names) == "diffusers":
        diffusers.check_names(names)


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
            raise ValueError(
                f"it is for {what}; what is read here is for Stable Diffusion 1.x, 2.x and XL, or "
                "in diffusers' format for a transformer (transformer.transformer_blocks...)"
            )
    if any(key.startswith(peft.PREFIX) for key in keys):
        raise ValueError(
            f"it is the {peft.WEIGHTS_FILE} of a PEFT directory: name the directory, with the "
            f"{peft.CONFIG_FILE} in it, which says how strong the adapter is"
        )
    return "diffusers"


def _told(content: Content, spec: AdapterSpec | None) -> Adapter | None:
    """The adapter where its file says in which blocks the layers lie, as this project's do.

    No model is needed then, and the model may be of any structure. The layers of text encoders
    are not told: the installed transformers decides what they are called.
    """
    layers = content.layers
    if content.format not in ("diffusers", "peft") or about.BLOCKS not in content.metadata:
        return None
    if any(layer.startswith("text_encoder") for layer in layers):
        return None
    homes = about.read_sub_blocks(content.metadata, layers)
    shapes = about.read_shapes(content.metadata)
    places = {layer: Place(homes[layer], shapes.get(layer, ())) for layer in layers}
    return _adapter(content, spec, {layer: layer for layer in layers}, places)


def _of_transformer(content: Content, spec: AdapterSpec | None) -> Adapter | None:
    """The adapter of a transformer (FLUX, Stable Diffusion 3), whose layers' names tell all."""
    layers = content.layers
    if not any(map(transformer.block_of, layers)):
        return None
    places = {layer: Place(_home(layer), ()) for layer in layers}
    return _adapter(content, spec, {layer: layer for layer in layers}, places)


def _home(layer: str) -> str:
    if part_of(layer) != "unet":
        return BASE
    return transformer.block_of(layer) or REST


def _looked_up(
    content: Content, spec: AdapterSpec | None, path: object, names: Names | None
) -> Adapter:
    """The adapter with its layers looked up in a model, or in the families that are known."""
    fits = _fits(content, path, names)
    widths = {name: peft_names.width_of(own.tensors) for name, own in content.layers.items()}
    sure = settle(fits, evidence(content.metadata, widths))
    names = sure or fits[0]
    made = _adapter(content, spec, names.layers, names.places)
    if sure is None:
        return made
    return replace(made, metadata=MappingProxyType(made.metadata | {about.FAMILY: names.family}))


def _adapter(
    content: Content,
    spec: AdapterSpec | None,
    layers: Mapping[str, str],
    places: Mapping[str, Place],
) -> Adapter:
    updates = _updates(content, layers, places)
    return Adapter(
        MappingProxyType(updates),
        MappingProxyType({layer: places[layer].sub_block for layer in updates}),
        spec,
        MappingProxyType(dict(content.metadata)),
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
    content: Content, layers: Mapping[str, str], places: Mapping[str, Place]
) -> dict[str, Update]:
    """In the model's order, as far as it is known."""
    shapes = about.read_shapes(content.metadata)
    found: dict[str, Update] = {}
    for spelling, own in content.layers.items():
        layer = layers[spelling]
        if layer in found:
            raise ValueError(f"layer {layer} is there twice, under two names")
        try:
            found[layer] = peft_names.made(own, shapes.get(layer), places[layer].shape)
        except ValueError as error:
            raise ValueError(f"in {spelling}, {error}") from None
    return {layer: found[layer] for layer in places if layer in found}


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
        if tensor.dtype not in (_ALPHAS if key.endswith(".alpha") else _TYPES):
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(f"tensor {key} is of type {kind}, not float32, float16 or bfloat16")
        if not tensor.numel():
            raise ValueError(f"tensor {key} is empty")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"tensor {key} is not finite: the training that made it diverged")
