"""From an update to PEFT's layer that computes it, and back.

PEFT's layers are made one by one, with this adapter's own sizes, instead of by `add_adapter`. That
matches layers by patterns of their names, knows no rank for each layer where OFT is concerned,
leaves a model half wrapped when it fails, and takes adapters of one kind only.
"""

import math
from dataclasses import dataclass

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig
from peft.tuners import loha, lokr, lora, oft
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from blockwise_lora.adapters.acting import (
    LoraConv2d,
    LoraLinear,
    OftConv2d,
    OftLinear,
    trained_scale,
)
from blockwise_lora.adapters.layers import levels
from blockwise_lora.adapters.updates import (
    Dora,
    Hadamard,
    Kronecker,
    LowRank,
    Orthogonal,
    Update,
)


@dataclass(frozen=True)
class _Kind:
    """PEFT's layers of one kind."""

    linear: type[BaseTunerLayer]
    conv: type[BaseTunerLayer]
    shared: type[BaseTunerLayer]
    """What both derive from: a layer of this class takes further adapters of the kind."""


_LORA = _Kind(LoraLinear, LoraConv2d, lora.LoraLayer)
_KINDS: dict[type, _Kind] = {
    LowRank: _LORA,
    Dora: _LORA,
    Hadamard: _Kind(loha.Linear, loha.Conv2d, loha.LoHaLayer),
    Kronecker: _Kind(lokr.Linear, lokr.Conv2d, lokr.LoKrLayer),
    Orthogonal: _Kind(OftLinear, OftConv2d, oft.OFTLayer),
}


def wrap(layer: nn.Module, name: str, update: Update) -> nn.Module:
    """Make an update act in a layer, with float32 parameters that hold its values.

    Args:
        layer: a plain layer, or one that other adapters wrap.
        name: the adapter's.
        update: for a weight of the layer's shape.

    Returns:
        What has to stand in the layer's place; it may be the layer itself.
    """
    kind, wrapped = _KINDS[type(update)], [*levels(layer)]
    level = next((level for level in wrapped if isinstance(level, kind.shared)), None)
    core, sizes = layer.get_base_layer() if wrapped else layer, _sizes(update)
    # PEFT's own initial values are replaced: on the meta device they cost nothing and draw nothing.
    # OFT draws none, and has indices, which stay.
    with torch.device("cpu" if isinstance(update, Orthogonal) else "meta"):
        if level is None:
            level = (kind.linear if isinstance(core, nn.Linear) else kind.conv)(core, name, **sizes)
            # Innermost, since PEFT's constructors want to see a plain layer.
            if wrapped:
                wrapped[-1].base_layer = level
            else:
                layer = level
        else:
            level.update_layer(name, **sizes)
    _fill(level, name, update)
    # In training mode PEFT draws a number at each call of LoHa and LoKr, even without dropout: from
    # the global random state, and once in 16 million times it would leave the layer out.
    level.eval()
    return layer


def unwrap(level: BaseTunerLayer, name: str) -> bool:
    """Take an adapter out of a level; True if none is left there.

    It must not be active, or PEFT would activate another in its place.
    """
    level.delete_adapter(name)
    if isinstance(level, oft.OFTLayer):
        level.scaling.pop(name, None)  # ours, of which PEFT knows nothing
    return not level.r


def read(level: BaseTunerLayer, name: str) -> Update:
    """An adapter's update in a layer as trained, whatever its strength; tensors are not copied."""
    tensors = {}
    for attribute in level.adapter_layer_names:
        holder = getattr(level, attribute)
        if name in holder:
            leaf = "" if isinstance(holder, nn.ParameterDict) else ".weight"
            tensors[attribute + leaf] = getattr(holder[name], "weight", holder[name]).detach()
    scale, shape = trained_scale(level, name), tuple(level.get_base_layer().weight.shape)
    if isinstance(level, lora.LoraLayer):
        if name not in level.lora_variant:
            return LowRank.from_tensors(tensors, scale)
        tensors["lora_magnitude_vector"] = tensors.pop("lora_magnitude_vector.weight")
        return Dora.from_tensors(tensors, scale)
    if isinstance(level, loha.LoHaLayer):
        return Hadamard.from_tensors(tensors, scale, shape)
    if isinstance(level, lokr.LoKrLayer):
        return Kronecker.from_tensors(tensors, scale, shape, level.r[name])
    rotation = level.oft_R[name]
    terms = rotation.num_cayley_neumann_terms if rotation.use_cayley_neumann else None
    return Orthogonal.from_tensors(tensors, shape, terms)


def alpha_of(update: Update) -> float:
    """The alpha for which alpha / rank is the update's scale, to the bit where there is one."""
    alpha = update.scale * update.rank
    near = (alpha, math.nextafter(alpha, math.inf), math.nextafter(alpha, -math.inf))
    alpha = next((a for a in near if a / update.rank == update.scale), alpha)
    return int(alpha) if alpha == int(alpha) else alpha  # as other tools write it


def _sizes(update: Update) -> dict:
    """What PEFT's constructors want to know."""
    rank = update.rank
    if isinstance(update, LowRank | Dora):
        config = LoraConfig(r=rank, use_dora=isinstance(update, Dora), init_lora_weights=False)
        return {"r": rank, "lora_alpha": alpha_of(update), "config": config}
    if isinstance(update, Orthogonal):
        terms = update.terms
        config = OFTConfig(
            oft_block_size=rank,
            use_cayley_neumann=terms is not None,
            num_cayley_neumann_terms=terms or 5,
        )
        return {"r": 0, "config": config}
    config = (LoHaConfig if isinstance(update, Hadamard) else LoKrConfig)(r=rank)
    return {"r": rank, "alpha": alpha_of(update), "config": config}


def _fill(level: BaseTunerLayer, name: str, update: Update) -> None:
    """Put the update's values in place of those that PEFT made, of whatever shape they were."""
    device = level.get_base_layer().weight.device
    values = {key.partition(".")[0]: tensor for key, tensor in update.tensors().items()}
    for attribute in level.adapter_layer_names:
        holder = getattr(level, attribute)
        if attribute not in values:
            if name in holder:
                del holder[name]
        elif isinstance(holder, nn.ParameterDict):
            holder[name] = _parameter(values[attribute], device)
        else:
            holder[name].weight = _parameter(values[attribute], device)
    if isinstance(update, Orthogonal):
        level.oft_R[name].to(device)  # its indices
        level.scaling[name] = 1.0


def _parameter(values: Tensor, device: torch.device) -> nn.Parameter:
    return nn.Parameter(values.detach().to(device, torch.float32, copy=True).contiguous())
