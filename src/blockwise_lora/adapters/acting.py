"""PEFT's layers of DoRA and OFT, so that a strength means the same for every method.

An adapter's change of a layer is what it does to the plain layer's answer when it is alone and as
trained. With several adapters, and with strengths, the answer is

    plain(x) + sum over adapters of strength * change(x)

which is what adding strength * delta to the weights gives. LoRA, LoHa and LoKr act so in PEFT. Its
DoRA does not: a strength goes into the direction alone, so that strength 0 is not the plain layer,
and a second adapter is rescaled by the first one's magnitudes. Its OFT knows no strength at all
(`set_scale` fails), and a second adapter acts on the rotated input. Where a single adapter acts at
strength 1 there is no difference, and PEFT's own code runs.
"""

from typing import Any, ClassVar

import torch
from peft.tuners import lora, oft
from peft.tuners.lora.dora import DoraConv2dLayer, DoraLinearLayer
from peft.tuners.lora.variants import DoraConv2dVariant, DoraLinearVariant
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn


def trained_scale(level: BaseTunerLayer, name: str) -> float:
    """An adapter's scale in a layer as it was trained, whatever its strength is now."""
    if isinstance(level, oft.OFTLayer):
        return 1.0
    if isinstance(level, lora.LoraLayer):
        power = 0.5 if level.use_rslora.get(name) else 1
        return level.lora_alpha[name] / level.r[name] ** power
    return level.alpha[name] / level.r[name]


def strength(level: BaseTunerLayer, name: str) -> float:
    """The factor by which an adapter's change acts in a layer."""
    return level.scaling[name] / trained_scale(level, name)


def _alone(level: BaseTunerLayer, names: tuple[str, ...], name: str) -> bool:
    """Whether the adapter is the first to act, on the plain layer's own answer, and wholly."""
    return (
        level.base_layer is level.get_base_layer()
        and names[0] == name
        and strength(level, name) == 1
    )


class _Dora:
    """Mixed into PEFT's DoRA variants."""

    layer: ClassVar[type[DoraLinearLayer]]

    @classmethod
    def init(cls, module: lora.LoraLayer, adapter_name: str, **kwargs: Any) -> None:
        """Make room for the magnitudes, which `wrapping` fills in; PEFT would work them out."""
        if "lora_magnitude_vector" not in module.adapter_layer_names:
            module.adapter_layer_names = (*module.adapter_layer_names, "lora_magnitude_vector")
        magnitudes = cls.layer(fan_in_fan_out=False)
        magnitudes.weight = nn.Parameter(torch.empty(0))
        module.lora_magnitude_vector[adapter_name] = magnitudes

    @classmethod
    def forward(
        cls, module: lora.LoraLayer, active_adapter: str, x: Tensor, result: Tensor, **kwargs: Any
    ) -> Tensor:
        acting = tuple(name for name in module.active_adapters if name in module.lora_A)
        if _alone(module, acting, active_adapter):
            return super().forward(module, active_adapter, x, result, **kwargs)
        plain = module.get_base_layer()
        change = module.lora_magnitude_vector[active_adapter](
            x,
            lora_A=module.lora_A[active_adapter],
            lora_B=module.lora_B[active_adapter],
            scaling=trained_scale(module, active_adapter),
            base_layer=plain,
            base_result=plain(x.to(plain.weight.dtype)),
            adapter_name=active_adapter,
        )
        return result + strength(module, active_adapter) * change


class _DoraLinear(_Dora, DoraLinearVariant):
    layer = DoraLinearLayer


class _DoraConv2d(_Dora, DoraConv2dVariant):
    layer = DoraConv2dLayer


class LoraLinear(lora.Linear):
    """PEFT's linear layer with LoRA or DoRA."""

    @property
    def lora_variants(self) -> dict:
        return super().lora_variants | {("use_dora",): _DoraLinear}


class LoraConv2d(lora.Conv2d):
    """PEFT's convolution with LoRA or DoRA."""

    @property
    def lora_variants(self) -> dict:
        return super().lora_variants | {("use_dora",): _DoraConv2d}


class _Oft:
    """Mixed into PEFT's OFT layers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.scaling = dict.fromkeys(self.r, 1.0)

    def set_scale(self, adapter: str, scale: float) -> None:
        """Set an adapter's strength."""
        if adapter in self.r:
            self.scaling[adapter] = scale

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        names = tuple(name for name in self.active_adapters if name in self.oft_R)
        if self.disable_adapters or self.merged or not names:
            return super().forward(x, *args, **kwargs)
        if len(names) == 1 and _alone(self, names, names[0]):
            return super().forward(x, *args, **kwargs)
        plain = self.get_base_layer()
        answer, before = self.base_layer(x, *args, **kwargs), plain(x)
        for name in names:
            rotation = self.oft_R[name]
            rotated = rotation(self._cast_input_dtype(x, rotation.weight.dtype))
            answer = answer + self.scaling[name] * (plain(rotated.to(x.dtype)) - before)
        return answer


class OftLinear(_Oft, oft.Linear):
    """PEFT's linear layer with OFT."""


class OftConv2d(_Oft, oft.Conv2d):
    """PEFT's convolution with OFT; right for 1x1 only."""
