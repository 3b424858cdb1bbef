"""Adapters on disk.

    pytorch_lora_weights.safetensors   diffusers' format (`pipe.load_lora_weights(folder)`) where it
                                       knows the method, else PEFT's names; the one that this
                                       project reads back, bit for bit
    adapter.safetensors                the single file for ComfyUI and A1111, equal in effect, where
                                       the method has one

All say in their metadata what they hold. Equal adapters give equal bytes: no times, no random
order.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from blockwise_lora.adapters import metadata as about
from blockwise_lora.adapters import tensorfile
from blockwise_lora.adapters.adapter import Adapter, state
from blockwise_lora.adapters.attach import Attached, check_name, describe, inject
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.layers import adapted_layers, require_attached
from blockwise_lora.adapters.parts import Model, Parts, part_of
from blockwise_lora.adapters.plan import UPDATES
from blockwise_lora.adapters.singlefile import to_single_file
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.adapters.updates import Dora, Kronecker, LowRank, Orthogonal, Update
from blockwise_lora.adapters.wrapping import read
from blockwise_lora.atomic import write_bytes
from blockwise_lora.blocks.mask import MaskError
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.errors import UserError

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
SINGLE_FILE = "adapter.safetensors"


def save_adapter(
    folder: str | Path,
    model: Model,
    name: str,
    *,
    spec: AdapterSpec,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write an attached adapter in its formats; strengths set for inference do not enter.

    Args:
        folder: where to write; made when missing.
        model: the U-Net, or `Parts`, that has the adapter.
        name: the adapter's name there.
        spec: what it was trained as.
        metadata: more to record (data hash, seed, ...). Leave times out if equal adapters are to
            have equal bytes.

    Returns:
        The path of the file that is read back.

    Raises:
        AdapterError: no such adapter, its weights are not finite, or a reserved metadata key.
        WriteError: the folder cannot be written; old files stay whole.
    """
    if reserved := [key for key in metadata if about.is_reserved(key)]:
        raise AdapterError(f"metadata key {reserved[0]!r} is reserved: take another name")
    updates = extract(model, name)
    common = {str(key): str(value) for key, value in metadata.items()}
    common |= about.describe(spec, updates, Parts.of(model).blocks)
    weights = {_in_file(key): tensor for key, tensor in state(updates).items()}
    target = Path(folder) / WEIGHTS_FILE
    write_bytes(target, tensorfile.encode(weights, common | about.for_peft(updates)))
    if all(isinstance(update, LowRank) for update in updates.values()):
        single, usual = to_single_file(updates)
        write_bytes(Path(folder) / SINGLE_FILE, tensorfile.encode(single, common | usual))
    return target


def extract(model: Model, name: str) -> dict[str, Update]:
    """An attached adapter's updates as trained: strengths are left out.

    Raises:
        AdapterError: no such adapter, or its weights are not finite.
    """
    require_attached(model, name)
    updates = {}
    for module, level in adapted_layers(model, name):
        updates[module] = read(level, name)
        if not all(torch.isfinite(t).all() for t in updates[module].tensors().values()):
            raise AdapterError(
                f"adapter {name!r} is not finite in {module}: the training diverged; nothing was "
                "written. Lower the learning rate, or train in float32 or bfloat16"
            )
    return updates


def read_adapter(path: str | Path) -> Adapter:
    """Read an adapter that `save_adapter` wrote: its folder, or its file in diffusers' format.

    Raises:
        AdapterError: the file is missing, damaged, not safetensors, or of another format.
    """
    path = Path(path)
    path = path / WEIGHTS_FILE if path.is_dir() else path
    content = tensorfile.read(path)
    modules = _modules(path, content)
    try:
        spec = about.read_spec(content.metadata)
        sub_blocks = about.read_sub_blocks(content.metadata, modules)
        config, shapes = about.read_config(content.metadata), about.read_shapes(content.metadata)
        updates = {
            module: _update(spec, config, shapes, module, tensors)
            for module, tensors in modules.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise AdapterError(
            f"{path} has damaged metadata or weights ({error}): fetch it again, or train it anew"
        ) from error
    return Adapter(
        MappingProxyType(updates),
        MappingProxyType(sub_blocks),
        spec,
        MappingProxyType(dict(content.metadata)),
        content.sha256,
    )


def load_adapter(model: Model, adapter: Adapter, name: str) -> Attached:
    """Attach a saved adapter with exactly its weights; it becomes the only active one.

    Raises:
        AdapterError: the adapter is for a model of another structure, or the name is taken or
            not usable; the model is as before.
    """
    parts = Parts.of(model)
    blocks = parts.blocks
    updates = _fitting(blocks, adapter)
    check_name(parts, name)
    inject(parts, updates, name)
    touched = {blocks.layers[module][0].name for module in updates}
    return describe(name, adapter.spec, updates, blocks, _empty(blocks, adapter, touched))


def _in_file(key: str) -> str:
    """Diffusers puts a part's name before every key; the text encoders' layers have it already."""
    return f"unet.{key}" if part_of(key) == "unet" else key


_KEY = re.compile(
    r"(?:unet\.)?(?P<module>.+)\."
    r"(?P<tensor>lora_[AB]\.weight|lora_magnitude_vector|(?:hada|lokr)_\w+|oft_R\.weight)"
)


def _modules(path: Path, content: tensorfile.TensorFile) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of each module, in order; other formats are told apart."""
    keys = set(content.tensors)
    if any(key.startswith(("lora_unet_", "lora_te")) for key in keys):
        raise AdapterError(
            f"{path} is a single file for ComfyUI and A1111: name the {WEIGHTS_FILE} beside it"
        )
    if about.SPEC not in content.metadata:
        raise AdapterError(
            f"{path} was not written by this project: its metadata lacks {about.SPEC!r}, without "
            "which its mask and scale are unknown. Train it here, or load it with diffusers"
        )
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for key in sorted(keys):
        match = _KEY.fullmatch(key)
        if match is None:
            raise AdapterError(f"{path} has a tensor {key!r} of no adapter: fetch it again")
        modules.setdefault(match["module"], {})[match["tensor"]] = content.tensors[key]
    if not modules:
        raise AdapterError(f"{path} has no tensors: fetch it again")
    return modules


def _update(
    spec: AdapterSpec,
    config: Mapping,
    shapes: Mapping[str, tuple[int, ...]],
    module: str,
    tensors: Mapping[str, torch.Tensor],
) -> Update:
    """One module's update.

    Raises:
        KeyError, ValueError, TypeError, AttributeError: something is missing or does not fit.
    """
    kind = UPDATES[spec.method]
    if kind is Orthogonal:
        terms = about.rotation_terms(config, module)
        update = Orthogonal.from_tensors(tensors, shapes[module], terms)
    else:
        rank, alpha = about.rank_and_alpha(config, module)
        if kind in (LowRank, Dora):
            update = kind.from_tensors(tensors, alpha / rank)
        elif kind is Kronecker:
            update = Kronecker.from_tensors(tensors, alpha / rank, shapes[module], rank)
        else:
            update = kind.from_tensors(tensors, alpha / rank, shapes[module])
        if update.rank != rank:
            raise ValueError(f"{module} is of rank {update.rank}, said to be {rank}")
    if update.tensors().keys() != tensors.keys():
        raise ValueError(f"{module} has other tensors than {spec.method}")
    return update


def _fitting(blocks: BlockMap, adapter: Adapter) -> dict[str, Update]:
    """The adapter's updates in this model's order.

    Raises:
        AdapterError: the model lacks a layer, or has it in another size.
    """
    misfits = []
    for module, update in adapter.updates.items():
        if module not in blocks.layers:
            misfits.append(f"{module} is missing")
        elif tuple(blocks.layers[module][1].shape) != tuple(update.shape):
            misfits.append(f"{module} is of another size")
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise AdapterError(
            "the adapter was trained for a U-Net of another structure: here "
            f"{', '.join(misfits[:3])}{more}. Load it into the base model that it was trained on"
        )
    return {name: adapter.updates[name] for name in blocks.layers if name in adapter.updates}


def _empty(blocks: BlockMap, adapter: Adapter, touched: set[str]) -> tuple[str, ...]:
    if adapter.spec is None:
        return ()
    try:
        ranks = adapter.spec.mask.ranks(blocks, adapter.spec.rank)
    except MaskError:  # a preset of another version: what is in the file is in force
        return ()
    return tuple(name for name, rank in ranks.items() if rank and name not in touched)
