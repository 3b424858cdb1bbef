"""pictures -> curated set, with summary, table and contact sheet; once for each concept."""

from functools import partial, update_wrapper

from kedro.pipeline import Pipeline, node

from blockwise_lora.pipelines.curation import nodes

CONCEPTS = ("character", "style")


def create_pipeline(**kwargs) -> Pipeline:
    """The curation of both concepts."""
    return sum((_of(concept) for concept in CONCEPTS), Pipeline([]))


def _of(concept: str) -> Pipeline:
    (other,) = set(CONCEPTS) - {concept}
    screen, caption = (
        update_wrapper(partial(function, where=concept), function)
        for function in (nodes.screen_pictures, nodes.caption_pictures)
    )
    groups = ("curation", "captioning", "output", "base_model", "device")
    curation = Pipeline(
        [
            node(
                screen,
                ["params:concept", "params:curation", "params:captioning", "params:device"],
                "screened",
                name="screen_pictures",
            ),
            node(
                caption,
                [
                    "screened",
                    "background",
                    "params:concept",
                    "params:captioning",
                    "params:output",
                    "params:base_model",
                    "params:device",
                ],
                ["curated", "screening"],
                name="caption_pictures",
            ),
            node(nodes.summarise, "screening", "curation_report", name="summarise"),
            node(nodes.tabulate, "screening", "curation_table", name="tabulate"),
            node(nodes.tabulate_captions, "screening", "caption_table", name="tabulate_captions"),
            node(
                nodes.draw_contact_sheet,
                ["curated", "screening"],
                "contact_sheet",
                name="draw_contact_sheet",
            ),
            node(nodes.draw_histograms, "screening", "histograms", name="draw_histograms"),
            node(nodes.draw_duplicates, "screening", "duplicates", name="draw_duplicates"),
        ]
    )
    # Whole groups, so that a misspelt name in one of them is noticed.
    parameters = {f"params:{name}": f"params:{name}" for name in groups}
    parameters["params:concept"] = f"params:{concept}"
    # Outside of the namespace, since each concept reads the other's, too.
    return Pipeline(
        curation,
        namespace=concept,
        inputs={"background": f"{other}_screened"},
        outputs={"screened": f"{concept}_screened"},
        parameters=parameters,
    )
