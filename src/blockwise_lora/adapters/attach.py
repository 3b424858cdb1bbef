"""Attaching adapters to a model through PEFT's layers, and taking them off again."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from blockwise_lora.adapters.config import peft_config
from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.initial import initial_update
from blockwise_lora.adapters.layers import (
    activate,
    adapted_layers,
    attached_names,
    levels,
    require_attached,
    tuner_layers,
)
from blockwise_lora.adapters.parts import Model, Parts, part_of
from blockwise_lora.adapters.plan import Plan
from blockwise_lora.adapters.spec import AdapterSpec
from blockwise_lora.adapters.updates import Update
from blockwise_lora.adapters.wrapping import unwrap, wrap
from blockwise_lora.blocks.structure import BlockMap


@dataclass(frozen=True)
class Attached:
    """An adapter in a model.

    Attributes:
        name: under which PEFT knows it.
        spec: what was asked for; None for an adapter that another tool made.
        ranks: full module name to rank, for every adapted layer.
        blocks: sub-block to the number of values trained in it.
        empty_blocks: sub-blocks that the mask trains but where the method finds no layer.
        rates: full module name to the factor of its learning rate, where it is not 1.
    """

    name: str
    spec: AdapterSpec | None
    ranks: dict[str, int]
    blocks: dict[str, int]
    empty_blocks: tuple[str, ...]
    rates: dict[str, float] = field(default_factory=dict)


def attach(model: Model, spec: AdapterSpec, name: str, generator: torch.Generator) -> Attached:
    """Add a new adapter to a model: the only active and trainable one, the base frozen.

    It changes nothing yet: see `initial_update`. A layer starts from the same values in every
    mask: each draws from a generator of its own, seeded with one draw from `generator` and the
    layer's name. Two masks trained from one seed therefore differ by the mask alone. Weights are
    float32 whatever the base is.

    Args:
        model: a diffusers U-Net, or `Parts` with text encoders, with or without other adapters.
        spec: what to add.
        name: a new name; letters, digits, `_` and `-`.
        generator: source of the initial values; the global random state is left alone.

    Raises:
        MaskError: the mask does not fit; the model is as before.
        AdapterError: the name is taken or not usable; the model is as before.
    """
    parts = Parts.of(model)
    blocks = parts.blocks
    plan = Plan.of(blocks, spec)
    check_name(parts, name)
    seed = int(
        torch.randint(2**62, (), generator=generator, device=generator.device, dtype=torch.int64)
    )
    updates = {
        step.name: initial_update(step, spec.init, _weight(parts, step.name), seed)
        for step in plan.layers
    }
    inject(parts, updates, name)
    rates = {step.name: step.rate for step in plan.layers if step.rate != 1}
    return describe(name, spec, updates, blocks, plan.empty_blocks, rates)


def describe(
    name: str,
    spec: AdapterSpec | None,
    updates: Mapping[str, Update],
    blocks: BlockMap,
    empty_blocks: tuple[str, ...] = (),
    rates: Mapping[str, float] | None = None,
) -> Attached:
    """What there is to say about updates that were attached, in the model's order."""
    counts: Counter[str] = Counter()
    for module, update in updates.items():
        sub_block, _ = blocks.layers[module]
        counts[sub_block.name] += sum(tensor.numel() for tensor in update.tensors().values())
    ranks = {module: update.rank for module, update in updates.items()}
    return Attached(name, spec, ranks, dict(counts), empty_blocks, dict(rates or {}))


def detach(model: Model, name: str) -> None:
    """Take an adapter off; layers left without any become plain layers again.

    Raises:
        AdapterError: there is no such adapter.
    """
    require_attached(model, name)
    _remove(Parts.of(model), name)


def trainable_parameters(model: Model, name: str) -> list[nn.Parameter]:
    """All of the adapter's parameters, in the model's order.

    Raises:
        AdapterError: there is no such adapter.
    """
    require_attached(model, name)
    return [
        parameter
        for _, level in adapted_layers(model, name)
        for parameter in _parameters(level, name)
    ]


def parameter_rates(model: Model, attached: Attached) -> list[float]:
    """The factor of the learning rate of each of `trainable_parameters`, in their order."""
    return [
        attached.rates.get(module, 1.0)
        for module, level in adapted_layers(model, attached.name)
        for _ in _parameters(level, attached.name)
    ]


def inject(model: Model, updates: Mapping[str, Update], name: str) -> None:
    """Let updates act in a model, as an adapter that alone is active and trainable.

    Args:
        model: where.
        updates: full module name to update, of the weights' shapes.
        name: a name that `check_name` accepts.

    Raises:
        Exception: whatever PEFT raises; the model is as before.
    """
    parts = Parts.of(model)
    try:
        for module, update in updates.items():
            parent, child = parts.locate(module)
            setattr(parent, child, wrap(getattr(parent, child), name, update))
        _register(parts, updates, name)
    except BaseException:
        _remove(parts, name)
        raise
    for _, part in parts.named():
        part.requires_grad_(False)
    for _, layer in tuner_layers(parts):
        activate(layer, [name])
    for parameter in trainable_parameters(parts, name):
        parameter.requires_grad_(True)


def check_name(model: Model, name: str) -> None:
    """Make sure that an adapter can take this name.

    Raises:
        AdapterError: it is taken or not usable.
    """
    # Names become keys of module dictionaries, which know no dots and reserve their own words.
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or hasattr(nn.ModuleDict(), name):
        raise AdapterError(
            f"adapter name {name!r} is not usable: take letters, digits, '_' and '-', and no "
            "reserved word such as 'type'"
        )
    if name in attached_names(model):
        raise AdapterError(f"adapter name {name!r} is taken: detach that adapter or take another")


def _weight(parts: Parts, module: str) -> torch.Tensor:
    layer = parts.get(module)
    return getattr(layer, "get_base_layer", lambda: layer)().weight


def _parameters(level: nn.Module, name: str) -> list[nn.Parameter]:
    """An adapter's parameters in one PEFT layer, in PEFT's order."""
    holders = (getattr(level, attribute) for attribute in level.adapter_layer_names)
    return [getattr(holder[name], "weight", holder[name]) for holder in holders if name in holder]


def _register(parts: Parts, updates: Mapping[str, Update], name: str) -> None:
    """Tell diffusers and transformers of the adapter, as their own `add_adapter` does."""
    for prefix, part in parts.named():
        own = {
            module.removeprefix(prefix): update
            for module, update in updates.items()
            if part_of(module) == (prefix.rstrip(".") or "unet")
        }
        if own:
            if not hasattr(part, "peft_config"):
                part.peft_config = {}
            part.peft_config[name] = peft_config(own)
            part._hf_peft_config_loaded = True


def _remove(parts: Parts, name: str) -> None:
    """Take off what there is of an adapter, wholly attached or not."""
    for module, layer in list(tuner_layers(parts)):
        kept = []
        for level in [*levels(layer)]:
            if name in level.r:  # the first thing that PEFT sets
                active = [other for other in level.active_adapters if other != name]
                activate(level, active)
                if unwrap(level, name):
                    continue
            kept.append(level)
        inner = layer.get_base_layer()
        for level in reversed(kept):
            level.base_layer = inner
            inner = level
        parent, child = parts.locate(module)
        setattr(parent, child, inner)
    for _, part in parts.named():
        configs = getattr(part, "peft_config", {})
        configs.pop(name, None)
        if not configs and hasattr(part, "peft_config"):
            part._hf_peft_config_loaded = False
            del part.peft_config
