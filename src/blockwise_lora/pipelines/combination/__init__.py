"""Sampling with the adapters alone and together."""

from blockwise_lora.pipelines.combination.pipeline import create_pipeline

__all__ = ["create_pipeline"]
