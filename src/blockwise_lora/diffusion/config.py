"""How an adapter is trained."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class TrainingConfig:
    """The parameter group `training`.

    Raises:
        ValueError: listing every value out of range.
    """

    steps: int = 200
    """Optimiser steps."""
    batch_size: int = 4
    """Pictures per step."""
    learning_rate: float = 1e-4
    """Peak of the schedule."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """How the rate falls after the warm-up: not at all, or to zero in one of two ways."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay, towards an adapter that does nothing."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's memory of gradients and of their squares."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    min_snr_gamma: float | None = 5.0
    """Cap on the weight of nearly noiseless steps (Hang et al. 2023); null: plain MSE."""
    noise_offset: float = 0.0
    """Strength of a common shift of a channel's noise; 0.05 helps very dark or light pictures."""
    caption_dropout: float = 0.0
    """Share of pictures trained without their caption, which strengthens guidance."""
    timesteps: Literal["uniform", "stratified"] = "stratified"
    """Noise levels drawn one by one, or spread evenly over each batch: a calmer gradient."""
    gradient_checkpointing: bool = False
    """Compute activations twice to save memory, at the price of speed."""
    checkpoint_every: int = 100
    """Steps between two saved states, from which a killed run goes on."""
    log_every: int = 10
    """Steps between two looks at the loss; on a GPU each makes the host wait."""
    seed: int = 0
    """Source of the initial weights and of every draw."""

    def __post_init__(self) -> None:
        at_least = {"steps": 1, "batch_size": 1, "warmup_steps": 0, "checkpoint_every": 1}
        at_least |= {"log_every": 1, "weight_decay": 0, "noise_offset": 0, "seed": 0}
        mistakes = [
            f"{name} is at least {low}, not {getattr(self, name)}"
            for name, low in at_least.items()
            if not getattr(self, name) >= low
        ]
        mistakes += [
            f"{name} is positive, not {getattr(self, name)}"
            for name in ("learning_rate", "max_grad_norm")
            if not getattr(self, name) > 0
        ]
        if self.min_snr_gamma is not None and not self.min_snr_gamma > 0:
            mistakes.append(f"min_snr_gamma is positive or null, not {self.min_snr_gamma}")
        if not 0 <= self.caption_dropout < 1:
            mistakes.append(f"caption_dropout is in [0, 1), not {self.caption_dropout}")
        if not all(0 <= beta < 1 for beta in self.betas):
            mistakes.append(f"betas are in [0, 1), not {self.betas}")
        if self.warmup_steps >= self.steps >= 1 and self.warmup_steps:
            mistakes.append(f"warmup_steps ({self.warmup_steps}) is below steps ({self.steps})")
        if mistakes:
            raise ValueError("\n".join(mistakes))
