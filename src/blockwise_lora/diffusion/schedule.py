"""The learning rate of each step."""

import math

from blockwise_lora.diffusion.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of a step: a linear rise over the warm-up, then the chosen fall.

    Args:
        config: peak, warm-up and schedule.
        step: from 0.
    """
    schedule, peak = config.schedule, config.learning_rate
    if step < schedule.warmup_steps:
        return peak * (step + 1) / (schedule.warmup_steps + 1)
    done = (step - schedule.warmup_steps) / (config.steps - schedule.warmup_steps)
    done = done * schedule.cycles % 1.0
    return (
        peak
        * {
            "constant": 1.0,
            "linear": 1.0 - done,
            "cosine": (1.0 + math.cos(math.pi * done)) / 2,
        }[schedule.decay]
    )
