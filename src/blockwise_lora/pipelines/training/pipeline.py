"""curated pictures -> adapter, the same for character and style; or both in one pass."""

from typing import Any

from kedro.pipeline import Pipeline, node

from blockwise_lora.pipelines.training import nodes
from blockwise_lora.pipelines.training.recipes import CONCEPTS

# The groups of both concepts are read by both: each checks the other's mask, too.
_SHARED = ("character", "style", "variant", "variants", "training", "base_model")
_SHARED += ("evaluation", "device", "seed")
_RESULTS = ("adapter", "loss")


def create_pipeline(**kwargs) -> Pipeline:
    """One modular pipeline, used once for each concept."""
    return sum((_for(concept) for concept in CONCEPTS), Pipeline([]))


def create_one_pass(**kwargs) -> Pipeline:
    """The same adapters in less time, and more memory: one node for both."""
    inputs = {f"{concept}_images": f"{concept}.curated" for concept in CONCEPTS}
    inputs |= {name: f"params:{name}" for name in _SHARED}
    outputs = [f"{concept}.{result}" for concept in CONCEPTS for result in _RESULTS]
    return Pipeline([node(nodes.train_in_one_pass, inputs, outputs, name="train_in_one_pass")])


def _for(concept: str) -> Pipeline:
    def train_adapter(**inputs: Any) -> tuple[Any, Any]:
        """Train the adapter of this namespace's concept."""
        return nodes.train_adapter(concept, **inputs)

    inputs = {"images": "curated", **{name: f"params:{name}" for name in _SHARED}}
    pipeline = Pipeline([node(train_adapter, inputs, list(_RESULTS), name="train_adapter")])
    shared = {f"params:{name}" for name in _SHARED}
    return Pipeline(pipeline, namespace=concept, parameters=shared)
