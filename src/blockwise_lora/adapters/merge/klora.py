"""K-LoRA: in each layer and at each step, the one adapter whose largest values are larger.

Ouyang, Li and Hou, K-LoRA: Unlocking Training-Free Fusion of Any Subject and Style LoRAs (arXiv
2502.18461), equations 2 to 10. With S_c and S_s the sums of the K = r_c r_s largest magnitudes of
the two changes of a layer, the content's adapter acts at step t of T where

    S_c >= gamma S(t) S_s,    S(t) = alpha t / T + beta

and else the style's. gamma, the same for all layers, makes up for an adapter that is louder than
the other. What depends on the weights is one number a layer, S_c / (gamma S_s); what depends on
the step is S(t), a function of the step and not of how often a layer was called, as in the
authors' code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from blockwise_lora.adapters.merge.parts import Part

Loudness = Literal["sums", "ratios"]
"""How gamma compares two adapters. `sums`: all magnitudes of the content's to all of the style's
(equation 9). `ratios`: the mean over the layers of the same ratio in each, without those of three
times the mean and more, as the authors' code has it.
"""


@dataclass(frozen=True)
class KLora:
    """The rule, for a content's adapter first and a style's second.

    Attributes:
        alpha: how much the style gains over the steps.
        beta: the style's factor at the first step.
        wrap: take S(t) modulo alpha, for more of the style's colours: the authors' S* (appendix
            D), with beta 1.3 in the paper and 1.275 in their code.
        gamma: how the two adapters' loudness is compared.
    """

    alpha: float = 1.5
    beta: float = 0.5
    wrap: bool = False
    gamma: Loudness = "sums"
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


def advantages(
    shared: Mapping[str, tuple[Part, Part]], loudness: Loudness = "sums"
) -> dict[str, float]:
    """S_c / (gamma S_s) of every layer that both adapters touch.

    The changes are compared as they are; the adapters' weights count only where they act.
    """
    tops, sums = {}, {}
    for module, (content, style) in shared.items():
        one, other = content.delta().abs(), style.delta().abs()
        k = min(content.update.rank * style.update.rank, one.numel())
        tops[module] = _ratio(top_sum(one, k), top_sum(other, k))
        sums[module] = one.double().sum().item(), other.double().sum().item()
    gamma = (of_sums if loudness == "sums" else of_ratios)([*sums.values()])
    return {module: top / gamma for module, top in tops.items()}


def top_sum(magnitudes: Tensor, k: int) -> float:
    """The sum of the k largest values."""
    return magnitudes.flatten().topk(k).values.double().sum().item()


def of_sums(sums: Sequence[tuple[float, float]]) -> float:
    """Gamma by equation 9, from the layers' sums of magnitudes; 1 where an adapter is silent."""
    content, style = sum(one for one, _ in sums), sum(other for _, other in sums)
    return content / style if content and style else 1.0


def of_ratios(sums: Sequence[tuple[float, float]]) -> float:
    """Gamma by the authors' code, likewise, over the layers where neither is silent."""
    ratios = [content / style for content, style in sums if content and style]
    if not ratios:
        return 1.0
    bound = 3 * sum(ratios) / len(ratios)
    kept = [ratio for ratio in ratios if ratio < bound]
    return sum(kept) / len(kept)


def _ratio(content: float, style: float) -> float:
    if style:
        return content / style
    return float("inf") if content else 0.0
