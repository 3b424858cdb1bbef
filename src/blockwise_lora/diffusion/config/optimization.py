"""How the weights follow the gradient."""

from dataclasses import dataclass
from typing import Literal

from blockwise_lora.diffusion.config.checks import check


@dataclass(frozen=True)
class OptimizerConfig:
    """The parameter group `training.optimizer`.

    Raises:
        ValueError: listing every value out of range.
    """

    name: Literal["adamw", "adamw8bit", "prodigy", "adafactor"] = "adamw"
    """adamw is fused and never makes the host wait. adamw8bit (extra `optimizers`) keeps its state
    in a quarter of the memory, prodigy (the same extra; Mishchenko and Defazio 2023) finds the rate
    itself (learning_rate: 1.0), adafactor (Shazeer and Stern 2018) keeps hardly any state."""
    weight_decay: float = 0.01
    """Decoupled decay per step and unit of rate, towards an adapter that does nothing."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Memory of gradients and of their squares; adafactor uses neither."""
    max_grad_norm: float | None = 1.0
    """Gradients longer than this are shortened to it; null: never."""
    lora_plus_ratio: float = 1.0
    """Rate of the up factors (B) as a multiple of that of the down factors (Hayou et al., LoRA+,
    2024, take 16)."""
    ema: float = 0.0
    """Memory of a running average of the weights, which becomes the result; 0: the last weights.
    0.99 averages about the last 100 steps."""

    def __post_init__(self) -> None:
        more = []
        if self.name == "prodigy" and self.lora_plus_ratio != 1:
            more.append("lora_plus_ratio: prodigy knows one rate for all weights; leave it at 1")
        check(
            self,
            at_least={"weight_decay": 0},
            positive=("max_grad_norm", "lora_plus_ratio"),
            share=("betas", "ema"),
            more=more,
        )


@dataclass(frozen=True)
class ScheduleConfig:
    """The parameter group `training.schedule`: the rate as a share of `learning_rate`.

    Raises:
        ValueError: listing every value out of range.
    """

    decay: Literal["constant", "linear", "cosine"] = "cosine"
    """How the rate falls after the warm-up: not at all, or to zero in one of two ways."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly."""
    cycles: int = 1
    """How many times the rate falls, each time from its peak (Loshchilov, Hutter: SGDR, 2017)."""

    def __post_init__(self) -> None:
        check(self, at_least={"warmup_steps": 0, "cycles": 1})
