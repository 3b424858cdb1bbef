"""The adapted layers inside a U-Net, as PEFT keeps them."""

from collections.abc import Iterator, Sequence

from peft.tuners.lora import LoraLayer
from torch import nn

from blockwise_lora.adapters.errors import AdapterError


def attached_names(unet: nn.Module) -> tuple[str, ...]:
    """The names of all adapters in a U-Net, in the order in which they came."""
    return tuple(getattr(unet, "peft_config", {}))


def require_attached(unet: nn.Module, name: str) -> None:
    """Make sure that there is an adapter of this name.

    Raises:
        AdapterError: there is none.
    """
    if name not in attached_names(unet):
        known = ", ".join(attached_names(unet)) or "none"
        raise AdapterError(f"no adapter {name!r} in this U-Net; attached: {known}")


def lora_layers(unet: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Module name and PEFT layer of every layer that any adapter touches, in model order."""
    for module_name, module in unet.named_modules():
        if isinstance(module, LoraLayer):
            yield module_name, module


def adapted_layers(unet: nn.Module, name: str) -> Iterator[tuple[str, LoraLayer]]:
    """Module name and PEFT layer of every layer that the adapter `name` touches."""
    return ((key, layer) for key, layer in lora_layers(unet) if name in layer.lora_A)


def activate(layer: LoraLayer, names: Sequence[str]) -> None:
    """Make exactly these adapters act in a layer, without changing what is trainable."""
    factors = [factor for pair in (layer.lora_A, layer.lora_B) for factor in pair.values()]
    trainable = [factor.weight.requires_grad for factor in factors]
    if layer.disable_adapters:
        layer.enable_adapters(True)
    layer.set_adapter(list(names))  # sets requires_grad as a side effect
    for factor, flag in zip(factors, trainable, strict=True):
        factor.weight.requires_grad_(flag)
