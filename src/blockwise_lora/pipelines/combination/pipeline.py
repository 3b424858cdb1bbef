"""two adapters -> pictures of every prompt with each of them and with both."""

from kedro.pipeline import Pipeline, node

from blockwise_lora.pipelines.combination.nodes import join_variants, sample_combinations

_GROUPS = ("character", "style", "prompts", "combination", "variant")
_GROUPS += ("base_model", "device", "seed")


def create_pipeline(**kwargs) -> Pipeline:
    """Sampling from what `training` saves, and a link to what `evaluation` reads."""
    inputs = {name: f"params:{name}" for name in _GROUPS}
    inputs |= {f"{concept}_adapter": f"{concept}.adapter" for concept in ("character", "style")}
    sampling = node(sample_combinations, inputs, "samples", name="sample_combinations")
    # `evaluation` finds all variants' samples by their places. This says that they come after.
    link = node(join_variants, "samples", "all_samples", name="join_variants")
    return Pipeline([sampling, link])
