"""curated pictures -> many adapters -> scores of every pair of masks -> page."""

from kedro.pipeline import Pipeline, node

from blockwise_lora.pipelines.sweep import nodes

_SHARED = ("character", "style", "prompts", "truth", "variants", "training", "combination")
_SHARED += ("evaluation", "sweep", "base_model", "device", "seed")


def create_pipeline(**kwargs) -> Pipeline:
    """The study: every mask of it trained, ablated and judged."""
    return _pipeline("sweep", nodes.run_study, "run_study")


def create_search(**kwargs) -> Pipeline:
    """The search: one pair of masks, confirmed."""
    return _pipeline("search", nodes.run_search, "run_search")


def _pipeline(what: str, work, name: str) -> Pipeline:
    inputs = {group: f"params:{group}" for group in _SHARED}
    inputs |= {"character_images": "character.curated", "style_images": "style.curated"}
    inputs |= {"bank": "sweep_bank", "pictures": "sweep_pictures"}
    outcome = f"{what}_outcome"
    return Pipeline(
        [
            node(work, inputs, [outcome, f"{what}_records"], name=name),
            node(nodes.summarise, outcome, f"{what}_scores", name=f"summarise_{what}"),
            node(nodes.tabulate, outcome, f"{what}_table", name=f"tabulate_{what}"),
            node(nodes.draw, outcome, f"{what}_figures", name=f"draw_{what}"),
            node(nodes.write_report, outcome, f"{what}_report", name=f"write_{what}_report"),
        ]
    )
