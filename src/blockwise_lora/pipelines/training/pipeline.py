"""curated pictures -> adapter, the same for character and style."""

from functools import partial

from kedro.pipeline import Pipeline, node

from blockwise_lora.pipelines.training.nodes import train_adapter
from blockwise_lora.pipelines.training.recipes import CONCEPTS

# The groups of both concepts are read by both: each checks the other's mask, too.
_SHARED = ("character", "style", "variant", "variants", "training", "base_model", "device", "seed")


def create_pipeline(**kwargs) -> Pipeline:
    """One modular pipeline, used once for each concept."""
    return sum((_for(concept) for concept in CONCEPTS), Pipeline([]))


def _for(concept: str) -> Pipeline:
    inputs = {"images": "curated", **{name: f"params:{name}" for name in _SHARED}}
    train = partial(train_adapter, concept)
    train.__name__ = train_adapter.__name__
    train.__doc__ = train_adapter.__doc__
    pipeline = Pipeline([node(train, inputs, ["adapter", "loss"], name="train_adapter")])
    shared = {f"params:{name}" for name in _SHARED}
    return Pipeline(pipeline, namespace=concept, parameters=shared)
