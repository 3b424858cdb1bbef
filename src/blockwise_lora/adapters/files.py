"""Adapters on disk.

    pytorch_lora_weights.safetensors   diffusers' format (`pipe.load_lora_weights(folder)`) where it
                                       knows the method, else PEFT's names; the one that this
                                       project reads back, bit for bit
    adapter.safetensors                the single file for ComfyUI and A1111, equal in effect, where
                                       the method has one

All say in their metadata what they hold. Equal adapters give equal bytes: no times, no random
order.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from blockwise_lora.adapters import metadata as about
from blockwise_lora.adapters import tensorfile
from blockwise_lora.adapters.adapter import Adapter
from blockwise_lora.adapters.attach import Attached, check_name, describe, inject
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.formats import Names, diffusers, kohya
from blockwise_lora.adapters.layers import adapted_layers, require_attached
from blockwise_lora.adapters.parts import Model, Parts, part_of
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.adapters.updates import LowRank, Update
from blockwise_lora.adapters.wrapping import read
from blockwise_lora.atomic import write_bytes
from blockwise_lora.blocks.mask import MaskError
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.blocks.unet import is_unet

WEIGHTS_FILE = diffusers.WEIGHTS_FILE
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
    parts, updates = Parts.of(model), extract(model, name)
    common = {str(key): str(value) for key, value in metadata.items()}
    common |= about.describe(spec, updates, parts.blocks)
    names = Names.of(parts.denoiser, *parts.text_encoders) if is_unet(parts.denoiser) else None
    if names is not None:
        common[about.FAMILY] = names.family
    weights, own = diffusers.encode(updates)
    target = Path(folder) / WEIGHTS_FILE
    write_bytes(target, tensorfile.encode(weights, common | own))
    if names is not None and all(isinstance(update, LowRank) for update in updates.values()):
        single, own = kohya.encode(updates, names)
        write_bytes(Path(folder) / SINGLE_FILE, tensorfile.encode(single, common | own))
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


def load_adapter(model: Model, adapter: Adapter, name: str) -> Attached:
    """Attach a saved adapter with exactly its weights; it becomes the only active one.

    Raises:
        AdapterError: the adapter is for a model of another structure or has layers of text
            encoders that were not given, or the name is taken or not usable; the model is as
            before.
    """
    parts = Parts.of(model)
    blocks = parts.blocks
    updates = _fitting(blocks, adapter)
    check_name(parts, name)
    inject(parts, updates, name)
    touched = {blocks.layers[module][0].name for module in updates}
    return describe(name, adapter.spec, updates, blocks, _empty(blocks, adapter, touched))


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
    encoders = {part_of(module) for module in adapter.updates} - {"unet"}
    absent = sorted(encoders - {part_of(module) for module in blocks.layers})
    if absent and all(part_of(misfit) in absent for misfit in misfits):
        raise AdapterError(
            f"the adapter has layers of text encoders, too ({', '.join(absent)}: the block BASE), "
            "and was to be loaded into a model without: hand over the denoiser together with its "
            "text encoders, Parts(denoiser, text_encoders), as a base model's `parts` are"
        )
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
