"""Scores, picture grid and report of the compared variants."""

from blockwise_lora.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
