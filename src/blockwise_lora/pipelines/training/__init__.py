"""Training one adapter for each concept."""

from blockwise_lora.pipelines.training.pipeline import create_one_pass, create_pipeline

__all__ = ["create_one_pass", "create_pipeline"]
