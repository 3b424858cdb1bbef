"""Which noise, at which levels, and how a mistake counts."""

from dataclasses import dataclass
from typing import Literal

from blockwise_lora.diffusion.config.checks import check


@dataclass(frozen=True)
class NoiseConfig:
    """The parameter group `training.noise`.

    Raises:
        ValueError: listing every value out of range.
    """

    timesteps: Literal["stratified", "uniform", "logit_normal", "cubic"] = "stratified"
    """How the noise levels of a batch are drawn: spread evenly over all levels (a calmer gradient),
    one by one, mostly in the middle (Esser et al., Stable Diffusion 3, 2024, section 3.1), or
    mostly high (1 - u^3 of the range, u uniform), where shapes are decided."""
    lowest: float = 0.0
    """Noise levels below this share of the schedule are left out; 0: none."""
    highest: float = 1.0
    """Noise levels above this share of the schedule are left out; 1: none."""
    logit_mean: float = 0.0
    """logit_normal: where the levels gather; above 0 nearer to pure noise."""
    logit_std: float = 1.0
    """logit_normal: how far they spread."""
    offset: float = 0.0
    """Strength of a common shift of each channel's noise; 0.03 to 0.1 help very dark or very light
    pictures."""
    pyramid: float = 0.0
    """Multi-resolution noise: share by which each coarser layer of noise is weaker than the one
    before, 0: off; 0.3 is usual. It changes large shapes and brightness more freely."""

    def __post_init__(self) -> None:
        more = []
        if not 0 <= self.lowest < self.highest <= 1:
            more.append(f"lowest < highest, both in [0, 1], not {self.lowest} and {self.highest}")
        check(self, at_least={"offset": 0}, positive=("logit_std",), share=("pyramid",), more=more)


@dataclass(frozen=True)
class LossConfig:
    """The parameter group `training.loss`. What is predicted is read from the base model.

    Raises:
        ValueError: listing every value out of range.
    """

    kind: Literal["mse", "huber"] = "mse"
    """Squared error, or the pseudo-Huber loss, which large errors (odd pictures) pull less."""
    huber_delta: float = 0.1
    """huber: errors well above this count by their size, not by its square (in units of noise)."""
    min_snr_gamma: float | None = 5.0
    """Cap on the weight of nearly noiseless steps (Hang et al. 2023); null: all levels alike."""
    masked: bool = False
    """Learn only what the picture's mask shows: `masks/NAME.png` beside the picture, white where
    it counts, else its alpha channel. A picture without either counts whole."""
    unmasked_weight: float = 0.0
    """masked: how much the rest counts all the same."""

    def __post_init__(self) -> None:
        check(self, positive=("huber_delta", "min_snr_gamma"), share=("unmasked_weight",))
