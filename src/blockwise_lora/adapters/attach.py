"""Attaching adapters to a U-Net through PEFT, and taking them off again."""

import hashlib
import math
import re
import warnings
from dataclasses import dataclass

import torch
from torch import nn

from blockwise_lora.adapters.config import lora_config
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.layers import (
    activate,
    adapted_layers,
    attached_names,
    lora_layers,
    require_attached,
)
from blockwise_lora.adapters.plan import LayerPlan, Plan
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.blocks.structure import BlockMap


@dataclass(frozen=True)
class Attached:
    """An adapter in a U-Net.

    Attributes:
        name: under which PEFT knows it.
        spec: what was asked for.
        ranks: full module name to rank, for every adapted layer.
        blocks: sub-block to the number of values trained in it.
        empty_blocks: sub-blocks that the mask trains but where the method finds no layer.
    """

    name: str
    spec: AdapterSpec
    ranks: dict[str, int]
    blocks: dict[str, int]
    empty_blocks: tuple[str, ...]


def attach(unet: nn.Module, spec: AdapterSpec, name: str, generator: torch.Generator) -> Attached:
    """Add a new adapter to a U-Net: the only active and trainable one, the base frozen.

    A starts uniform in +-1/sqrt(fan-in) as PEFT's own, B at zero, so the U-Net's output does not
    change yet. A layer starts from the same values in every mask: each draws from a generator
    of its own, seeded with one draw from `generator` and the layer's name. Two masks trained
    from one seed therefore differ by the mask alone. Weights are float32 whatever the base is.

    Args:
        unet: a diffusers `UNet2DConditionModel`, with or without other adapters.
        spec: what to add.
        name: a new name; letters, digits, `_` and `-`.
        generator: source of the initial values; the global random state is left alone.

    Raises:
        MaskError: the mask does not fit; the U-Net is as before.
        AdapterError: the name is taken or not usable; the U-Net is as before.
    """
    plan = Plan.of(BlockMap.of(unet), spec)
    inject(unet, plan, name)
    seed = int(
        torch.randint(2**62, (), generator=generator, device=generator.device, dtype=torch.int64)
    )
    layers = dict(adapted_layers(unet, name))
    with torch.no_grad():
        for step in plan.layers:
            layers[step.name].lora_A[name].weight.copy_(_initial_a(step, seed))
            layers[step.name].lora_B[name].weight.zero_()
    return Attached(name, spec, plan.ranks, plan.parameters, plan.empty_blocks)


def detach(unet: nn.Module, name: str) -> None:
    """Take an adapter off; layers left without any become plain layers again.

    Raises:
        AdapterError: there is no such adapter.
    """
    require_attached(unet, name)
    _remove(unet, name)


def trainable_parameters(unet: nn.Module, name: str) -> list[nn.Parameter]:
    """The adapter's A and B of every layer, in the model's order.

    Raises:
        AdapterError: there is no such adapter.
    """
    require_attached(unet, name)
    return [
        factor[name].weight
        for _, layer in adapted_layers(unet, name)
        for factor in (layer.lora_A, layer.lora_B)
    ]


def inject(unet: nn.Module, plan: Plan, name: str) -> None:
    """Add the plan's layers with arbitrary values.

    Raises:
        AdapterError: the name is taken or not usable; the U-Net is as before.
    """
    _check_name(unet, name)
    try:
        # PEFT draws initial values from the global generator: give it a copy to spend.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # several are meant
            unet.add_adapter(lora_config(plan.layers), adapter_name=name)
        layers = dict(adapted_layers(unet, name))
        if {key: layer.r[name] for key, layer in layers.items()} != plan.ranks:
            raise RuntimeError(f"PEFT did not adapt the layers that adapter {name!r} plans")
    except BaseException:
        # PEFT leaves a model half wrapped when it fails.
        _remove(unet, name)
        raise
    for layer in layers.values():
        layer.lora_A[name].to(torch.float32)
        layer.lora_B[name].to(torch.float32)


def _initial_a(step: LayerPlan, seed: int) -> torch.Tensor:
    """Kaiming-uniform values with a = sqrt(5), as PEFT's and nn.Linear's, of shape `a_shape`."""
    digest = hashlib.sha256(f"{seed}:{step.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    bound = 1 / math.sqrt(math.prod(step.a_shape[1:]))
    return torch.empty(step.a_shape).uniform_(-bound, bound, generator=generator)


def _remove(unet: nn.Module, name: str) -> None:
    """Take off what there is of an adapter, wholly attached or not."""
    for module_name, layer in list(lora_layers(unet)):
        if name not in layer.r:  # the first thing that PEFT sets
            continue
        # PEFT would activate another adapter in place of the removed one.
        activate(layer, [other for other in layer.active_adapters if other != name])
        layer.delete_adapter(name)
        if not layer.lora_A:
            parent, _, child = module_name.rpartition(".")
            setattr(unet.get_submodule(parent), child, layer.get_base_layer())
    configs = getattr(unet, "peft_config", {})
    configs.pop(name, None)
    if not configs:
        unet._hf_peft_config_loaded = False
        if hasattr(unet, "peft_config"):
            del unet.peft_config


def _check_name(unet: nn.Module, name: str) -> None:
    # Names become keys of module dictionaries, which know no dots and reserve their own words.
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or hasattr(nn.ModuleDict(), name):
        raise AdapterError(
            f"adapter name {name!r} is not usable: take letters, digits, '_' and '-', and no "
            "reserved word such as 'type'"
        )
    if name in attached_names(unet):
        raise AdapterError(f"adapter name {name!r} is taken: detach that adapter or take another")
