"""two adapters -> pictures of every prompt with each of them and with both."""

from kedro.pipeline import Pipeline, node

from blockwise_lora.pipelines.combination.nodes import sample_combinations

_GROUPS = ("character", "style", "prompts", "combination", "variant")
_GROUPS += ("base_model", "device", "seed")


def create_pipeline(**kwargs) -> Pipeline:
    """One node; its inputs are what `training` saves."""
    inputs = {name: f"params:{name}" for name in _GROUPS}
    inputs |= {f"{concept}_adapter": f"{concept}.adapter" for concept in ("character", "style")}
    return Pipeline([node(sample_combinations, inputs, "samples", name="sample_combinations")])
