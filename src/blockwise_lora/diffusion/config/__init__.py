"""How an adapter is trained: one frozen dataclass for each theme, in YAML one group each."""

from blockwise_lora.diffusion.config.data import AugmentConfig, CaptionConfig
from blockwise_lora.diffusion.config.efficiency import EfficiencyConfig
from blockwise_lora.diffusion.config.noise import LossConfig, NoiseConfig
from blockwise_lora.diffusion.config.optimization import OptimizerConfig, ScheduleConfig
from blockwise_lora.diffusion.config.prior import PriorConfig
from blockwise_lora.diffusion.config.training import TrainingConfig
from blockwise_lora.diffusion.config.trigger import TriggerEmbeddingConfig
from blockwise_lora.diffusion.config.validation import ValidationConfig

__all__ = [
    "TrainingConfig",
    "OptimizerConfig",
    "ScheduleConfig",
    "NoiseConfig",
    "LossConfig",
    "CaptionConfig",
    "AugmentConfig",
    "PriorConfig",
    "TriggerEmbeddingConfig",
    "ValidationConfig",
    "EfficiencyConfig",
]
