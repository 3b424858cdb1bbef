"""Which blocks? Many masks trained, scored and compared; a search over them."""

from blockwise_lora.pipelines.sweep.pipeline import create_pipeline, create_search

__all__ = ["create_pipeline", "create_search"]
