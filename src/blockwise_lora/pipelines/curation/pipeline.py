"""pictures -> curated set, with summary, table and contact sheet; once for each concept."""

from functools import partial, update_wrapper

from kedro.pipeline import Pipeline, node

from blockwise_lora.pipelines.curation import nodes

CONCEPTS = ("character", "style")


def create_pipeline(**kwargs) -> Pipeline:
    """The curation of both concepts."""
    return sum((_of(concept) for concept in CONCEPTS), Pipeline([]))


def _of(concept: str) -> Pipeline:
    named = update_wrapper(partial(nodes.curate_pictures, where=concept), nodes.curate_pictures)
    curation = Pipeline(
        [
            node(
                named,
                ["params:concept", "params:curation"],
                ["curated", "screening"],
                name="curate_pictures",
            ),
            node(nodes.summarise, "screening", "curation_report", name="summarise"),
            node(nodes.tabulate, "screening", "curation_table", name="tabulate"),
            node(
                nodes.draw_contact_sheet,
                ["curated", "screening"],
                "contact_sheet",
                name="draw_contact_sheet",
            ),
        ]
    )
    # The whole group, so that a misspelt name in it is noticed.
    parameters = {"params:concept": f"params:{concept}", "params:curation": "params:curation"}
    return Pipeline(curation, namespace=concept, parameters=parameters)
