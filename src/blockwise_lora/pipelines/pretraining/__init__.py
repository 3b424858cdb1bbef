"""Making the embedded world: corpus, base model and judges. The repository ships its outcome."""

from blockwise_lora.pipelines.pretraining.pipeline import create_pipeline

__all__ = ["create_pipeline"]
