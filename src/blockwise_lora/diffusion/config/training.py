"""All about a training but the adapter itself and the pictures."""

from dataclasses import dataclass, field, replace
from typing import Self

from blockwise_lora.diffusion.config.checks import check
from blockwise_lora.diffusion.config.data import AugmentConfig, CaptionConfig
from blockwise_lora.diffusion.config.efficiency import EfficiencyConfig
from blockwise_lora.diffusion.config.noise import LossConfig, NoiseConfig
from blockwise_lora.diffusion.config.optimization import OptimizerConfig, ScheduleConfig
from blockwise_lora.diffusion.config.prior import PriorConfig
from blockwise_lora.diffusion.config.trigger import TriggerEmbeddingConfig
from blockwise_lora.diffusion.config.validation import ValidationConfig


@dataclass(frozen=True)
class TrainingConfig:
    """The parameter group `training`.

    Raises:
        ValueError: listing every value out of range.
    """

    steps: int = 200
    """Optimiser steps."""
    batch_size: int = 4
    """Pictures per batch."""
    accumulation: int = 1
    """Batches per step, whose gradients are averaged: like a larger batch, with less memory."""
    learning_rate: float = 1e-4
    """Peak of the schedule, per step."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    captions: CaptionConfig = field(default_factory=CaptionConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    efficiency: EfficiencyConfig = field(default_factory=EfficiencyConfig)
    trigger: str = ""
    """The word in the captions that comes to stand for the concept; the pipeline takes it from the
    concept's parameters."""
    trigger_embedding: TriggerEmbeddingConfig = field(default_factory=TriggerEmbeddingConfig)
    checkpoint_every: int = 100
    """Steps between two saved states, from which a killed run goes on."""
    log_every: int = 10
    """Steps between two looks at the loss; on a GPU each makes the host wait."""
    seed: int = 0
    """Source of the initial weights and of every draw."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "batch_size": 1, "accumulation": 1, "checkpoint_every": 1}
        more = []
        if self.trigger_embedding.train and not self.trigger:
            more.append("trigger_embedding.train needs trigger, the word in the captions")
        if self.trigger in self.prior.companions:
            more.append(f"prior.companions has {self.trigger!r}, the adapter's own trigger")
        if self.schedule.warmup_steps >= self.steps >= 1 and self.schedule.warmup_steps:
            warmup = self.schedule.warmup_steps
            more.append(f"schedule.warmup_steps ({warmup}) is below steps ({self.steps})")
        check(
            self,
            at_least=least | {"log_every": 1, "seed": 0},
            positive=("learning_rate",),
            more=more,
        )

    @property
    def decisive(self) -> Self:
        """The same with all at its default that changes speed or safety only, and no result."""
        plain = type(self)()
        return replace(
            self,
            efficiency=replace(self.efficiency, cuda_graphs=plain.efficiency.cuda_graphs),
            checkpoint_every=plain.checkpoint_every,
            log_every=plain.log_every,
        )
