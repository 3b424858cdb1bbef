"""How two adapters act together in a sampled picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from blockwise_lora.adapters import Schedule
from blockwise_lora.diffusion.merging import MergeConfig
from blockwise_lora.diffusion.sampling import SamplingConfig


@dataclass(frozen=True)
class Strengths:
    """How strongly each adapter acts: a number, or numbers by block (see `set_strengths`)."""

    character: float | Mapping[str, float] = 1.0
    style: float | Mapping[str, float] = 1.0


@dataclass(frozen=True)
class Schedules:
    """How each adapter's strength goes over the denoising steps."""

    character: Schedule = field(default_factory=Schedule)
    style: Schedule = field(default_factory=Schedule)


@dataclass(frozen=True)
class CombinationConfig:
    """The parameter group `combination`.

    Raises:
        ValueError: less than one picture per prompt, or schedules for adapters that are merged.
    """

    pictures_per_prompt: int = 4
    """Each with a seed of its own, counting up from the run's seed."""
    strengths: Strengths = field(default_factory=Strengths)
    schedules: Schedules = field(default_factory=Schedules)
    """Side by side or alone; what is merged has no adapters that could start and stop."""
    merge: MergeConfig = field(default_factory=MergeConfig)
    """How the two adapters become one for the pictures of both."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if self.pictures_per_prompt < 1:
            raise ValueError(f"pictures_per_prompt is at least 1, not {self.pictures_per_prompt}")
        if self.merge.rule != "active" and self.schedules != Schedules():
            raise ValueError(
                f"schedules are for adapters that act side by side (merge.rule: active), and rule "
                f"{self.merge.rule} makes one of both: leave the one or the other out"
            )
        for name in ("character", "style"):
            getattr(self.schedules, name).check(self.sampling.steps, f"schedules.{name}")
