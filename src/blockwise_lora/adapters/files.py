"""Adapters on disk.

    pytorch_lora_weights.safetensors   diffusers' format (`pipe.load_lora_weights(folder)`), and
                                       the one that this project reads back, bit for bit
    adapter.safetensors                the single file for ComfyUI and A1111, equal in effect

Both say in their metadata what they hold. Equal adapters give equal bytes: no times, no random
order.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from blockwise_lora.adapters import metadata as about
from blockwise_lora.adapters import tensorfile
from blockwise_lora.adapters.adapter import Adapter, state
from blockwise_lora.adapters.attach import Attached, inject
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.layers import adapted_layers, require_attached
from blockwise_lora.adapters.plan import LayerPlan, Plan
from blockwise_lora.adapters.singlefile import to_single_file
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.adapters.updates import LowRank, Update
from blockwise_lora.atomic import write_bytes
from blockwise_lora.blocks.mask import MaskError
from blockwise_lora.blocks.structure import BlockMap
from blockwise_lora.errors import UserError

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
SINGLE_FILE = "adapter.safetensors"


def save_adapter(
    folder: str | Path,
    unet: nn.Module,
    name: str,
    *,
    spec: AdapterSpec,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write an attached adapter in both formats; strengths set for inference do not enter.

    Args:
        folder: where to write; made when missing.
        unet: the U-Net that has the adapter.
        name: the adapter's name there.
        spec: what it was trained as.
        metadata: more to record (data hash, seed, ...). Leave times out if equal adapters are to
            have equal bytes.

    Returns:
        The path of the file in diffusers' format.

    Raises:
        AdapterError: no such adapter, its weights are not finite, or a reserved metadata key.
        WriteError: the folder cannot be written; old files stay whole.
    """
    if reserved := [key for key in metadata if about.is_reserved(key)]:
        raise AdapterError(f"metadata key {reserved[0]!r} is reserved: take another name")
    require_attached(unet, name)
    blocks = BlockMap.of(unet)
    updates, plan = _extract(unet, name, blocks)
    common = {str(key): str(value) for key, value in metadata.items()}
    common |= about.describe(spec, plan, blocks)
    weights = {f"unet.{key}": tensor for key, tensor in state(updates).items()}
    single, usual = to_single_file(updates)
    target = Path(folder) / WEIGHTS_FILE
    write_bytes(target, tensorfile.encode(weights, common | about.peft_config(plan)))
    write_bytes(Path(folder) / SINGLE_FILE, tensorfile.encode(single, common | usual))
    return target


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
        alphas = about.read_alphas(content.metadata, modules)
        sub_blocks = about.read_sub_blocks(content.metadata, modules)
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise AdapterError(
            f"{path} has damaged metadata ({error}): fetch it again, or train it anew"
        ) from error
    updates = {}
    for module in modules:
        pair = {f"lora_{x}.weight": content.tensors[f"unet.{module}.lora_{x}.weight"] for x in "AB"}
        try:
            rank = len(pair["lora_A.weight"])
            updates[module] = LowRank.from_tensors(pair, alphas[module] / rank if rank else 1.0)
        except ValueError as error:
            raise AdapterError(f"{path} is damaged in {module}: {error}") from None
    return Adapter(
        MappingProxyType(updates),
        MappingProxyType(sub_blocks),
        spec,
        MappingProxyType(dict(content.metadata)),
        content.sha256,
    )


def load_adapter(unet: nn.Module, adapter: Adapter, name: str) -> Attached:
    """Attach a saved adapter with exactly its weights; it becomes the only active one.

    Raises:
        AdapterError: the adapter is for a U-Net of another structure, or the name is taken or
            not usable; the U-Net is as before.
    """
    blocks = BlockMap.of(unet)
    plan = _plan_for(blocks, adapter)
    inject(unet, plan, name)
    with torch.no_grad():
        for key, layer in adapted_layers(unet, name):
            layer.lora_A[name].weight.copy_(adapter.updates[key].down)
            layer.lora_B[name].weight.copy_(adapter.updates[key].up)
    return Attached(name, adapter.spec, plan.ranks, plan.parameters, plan.empty_blocks)


def _extract(unet: nn.Module, name: str, blocks: BlockMap) -> tuple[dict[str, Update], Plan]:
    """An attached adapter's updates and plan, as trained: strengths are left out."""
    updates, layers = {}, []
    for key, module in adapted_layers(unet, name):
        down, up = (part[name].weight.detach() for part in (module.lora_A, module.lora_B))
        if not (torch.isfinite(down).all() and torch.isfinite(up).all()):
            raise AdapterError(
                f"adapter {name!r} is not finite in {key}: the training diverged; nothing was "
                "written. Lower the learning rate, or train in float32 or bfloat16"
            )
        rank, alpha = module.r[name], module.lora_alpha[name]
        updates[key] = LowRank(down, up, alpha / rank)
        block, layer = blocks.layers[key]
        layers.append(LayerPlan(layer, block.name, rank, alpha))
    return updates, Plan(tuple(layers))


def _modules(path: Path, content: tensorfile.TensorFile) -> list[str]:
    """The adapted modules of a file in diffusers' format; other formats are told apart."""
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
    downs = (key for key in keys if key.endswith(".lora_A.weight"))
    modules = sorted(k.removeprefix("unet.").removesuffix(".lora_A.weight") for k in downs)
    if not modules or keys != {f"unet.{m}.lora_{x}.weight" for m in modules for x in "AB"}:
        raise AdapterError(f"{path} has other tensors than an adapter of a U-Net: fetch it again")
    return modules


def _plan_for(blocks: BlockMap, adapter: Adapter) -> Plan:
    """The adapter's layers in this model, with its own ranks and scales."""
    misfits, layers = [], []
    for module, update in adapter.updates.items():
        block, layer = blocks.layers.get(module, (None, None))
        if layer is None:
            misfits.append(f"{module} is missing")
            continue
        step = LayerPlan(layer, block.name, update.rank, update.scale * update.rank)
        if layer.shape != update.shape:
            misfits.append(f"{module} is of another size")
        layers.append(step)
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise AdapterError(
            "the adapter was trained for a U-Net of another structure: here "
            f"{', '.join(misfits[:3])}{more}. Load it into the base model that it was trained on"
        )
    order = {name: i for i, name in enumerate(blocks.layers)}
    layers.sort(key=lambda step: order[step.name])
    return Plan(tuple(layers), _empty(blocks, adapter, {step.sub_block for step in layers}))


def _empty(blocks: BlockMap, adapter: Adapter, touched: set[str]) -> tuple[str, ...]:
    if adapter.spec is None:
        return ()
    try:
        ranks = adapter.spec.mask.ranks(blocks, adapter.spec.rank)
    except MaskError:  # a preset of another version: what is in the file is in force
        return ()
    return tuple(name for name, rank in ranks.items() if rank and name not in touched)
