"""K-LoRA: in each layer and at each step, the one adapter whose largest values are larger.

Ouyang, Li and Hou, K-LoRA: Unlocking Training-Free Fusion of Any Subject and Style LoRAs (2025).
With S_c and S_s the sums of the K = r_c r_s largest magnitudes of the two changes of a layer, the
content's adapter acts at step t of T where

    S_c > gamma S(t) S_s,    S(t) = alpha t / T + beta

and else the style's. gamma, the same for all layers, is the mean ratio of the two changes' sums of
magnitudes, so that a loud adapter does not win everywhere; as in the authors' code ratios of three
times the mean and more are left out of it. What depends on the weights is one number a layer,
S_c / (gamma S_s); what depends on the step is S(t), a function of the step and not of how often a
layer was called.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from blockwise_lora.adapters.merge.parts import Part


@dataclass(frozen=True)
class KLora:
    """The rule, for a content's adapter first and a style's second.

    Attributes:
        alpha: how much the style gains over the steps.
        beta: the style's factor at the first step.
        wrap: take S(t) modulo alpha, the authors' S*, which they use with beta 0.85 alpha for
            more of the style's blocks.
    """

    alpha: float = 1.5
    beta: float = 0.5
    wrap: bool = False
    name: ClassVar[str] = "klora"

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and self.beta >= 0):
            raise ValueError(
                f"alpha is positive and beta not negative: {self.alpha} and {self.beta}"
            )

    def scale(self, step: int, steps: int) -> float:
        """S(t), where t counts from 0."""
        value = self.alpha * step / steps + self.beta
        return value % self.alpha if self.wrap else value


def advantages(shared: Mapping[str, tuple[Part, Part]]) -> dict[str, float]:
    """S_c / (gamma S_s) of every layer that both adapters touch.

    The changes are compared as they are; the adapters' weights count only where they act.
    """
    tops, sums = {}, {}
    for module, (content, style) in shared.items():
        one, other = content.delta().abs(), style.delta().abs()
        k = min(content.update.rank * style.update.rank, one.numel())
        tops[module] = _ratio(top_sum(one, k), top_sum(other, k))
        sums[module] = _ratio(one.sum().item(), other.sum().item())
    gamma = trimmed_mean([ratio for ratio in sums.values() if 0 < ratio < float("inf")])
    return {module: top / gamma for module, top in tops.items()}


def top_sum(magnitudes: Tensor, k: int) -> float:
    """The sum of the k largest values."""
    return magnitudes.flatten().topk(k).values.double().sum().item()


def trimmed_mean(ratios: list[float]) -> float:
    """The mean of those below three times the mean; 1 of none."""
    if not ratios:
        return 1.0
    bound = 3 * sum(ratios) / len(ratios)
    kept = [ratio for ratio in ratios if ratio < bound]
    return sum(kept) / len(kept)


def _ratio(content: float, style: float) -> float:
    if style:
        return content / style
    return float("inf") if content else 0.0
