"""curated pictures -> adapter, the same for character and style."""

from typing import Any

from kedro.pipeline import Pipeline, node

from blockwise_lora.pipelines.training import nodes
from blockwise_lora.pipelines.training.recipes import CONCEPTS

# The groups of both concepts are read by both: each checks the other's mask, too.
_SHARED = ("character", "style", "variant", "variants", "training", "base_model")
_SHARED += ("evaluation", "device", "seed")


def create_pipeline(**kwargs) -> Pipeline:
    """One modular pipeline, used once for each concept."""
    return sum((_for(concept) for concept in CONCEPTS), Pipeline([]))


def _for(concept: str) -> Pipeline:
    def train_adapter(**inputs: Any) -> tuple[Any, Any]:
        """Train the adapter of this namespace's concept."""
        return nodes.train_adapter(concept, **inputs)

    inputs = {"images": "curated", **{name: f"params:{name}" for name in _SHARED}}
    pipeline = Pipeline([node(train_adapter, inputs, ["adapter", "loss"], name="train_adapter")])
    shared = {f"params:{name}" for name in _SHARED}
    return Pipeline(pipeline, namespace=concept, parameters=shared)
