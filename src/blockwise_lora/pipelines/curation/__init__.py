"""From two folders of pictures to two sets one can train on."""

from blockwise_lora.pipelines.curation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
