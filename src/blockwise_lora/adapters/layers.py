"""The adapted layers inside a model, as PEFT keeps them.

Adapters of one kind share a PEFT layer; adapters of different kinds wrap each other:
`LoHa(LoRA(Linear))`, the latest kind innermost. The outermost takes the plain layer's place.
"""

from collections.abc import Iterator, Sequence

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from blockwise_lora.adapters.errors import AdapterError
from blockwise_lora.adapters.parts import Model, Parts


def attached_names(model: Model) -> tuple[str, ...]:
    """The names of all adapters in a model, in the order in which they came."""
    names = (getattr(part, "peft_config", {}) for _, part in Parts.of(model).named())
    return tuple(dict.fromkeys(name for part in names for name in part))


def require_attached(model: Model, name: str) -> None:
    """Make sure that there is an adapter of this name.

    Raises:
        AdapterError: there is none.
    """
    if name not in attached_names(model):
        known = ", ".join(attached_names(model)) or "none"
        raise AdapterError(f"no adapter {name!r} in this U-Net; attached: {known}")


def tuner_layers(model: Model) -> Iterator[tuple[str, BaseTunerLayer]]:
    """Module name and outermost PEFT layer wherever any adapter acts, in model order."""
    for prefix, part in Parts.of(model).named():
        for module_name, module in part.named_modules():
            if isinstance(module, BaseTunerLayer) and not module_name.endswith(".base_layer"):
                yield prefix + module_name, module


def levels(layer: nn.Module) -> Iterator[BaseTunerLayer]:
    """The PEFT layers that wrap one plain layer, from the outermost inwards."""
    while isinstance(layer, BaseTunerLayer):
        yield layer
        layer = layer.base_layer


def holds(layer: BaseTunerLayer, name: str) -> bool:
    """Whether an adapter acts in a layer, at whatever level."""
    return any(name in level.r for level in levels(layer))


def adapted_layers(model: Model, name: str) -> Iterator[tuple[str, BaseTunerLayer]]:
    """Module name and the PEFT layer that holds the adapter `name`, in model order."""
    for module_name, layer in tuner_layers(model):
        for level in levels(layer):
            if name in level.r:
                yield module_name, level


def activate(layer: BaseTunerLayer, names: Sequence[str]) -> None:
    """Make exactly these adapters act in a layer, without changing what is trainable.

    PEFT's `set_adapter` would make them trainable, and freeze the others.
    """
    for level in levels(layer):
        level._disable_adapters = False
        level._active_adapter = list(names)
