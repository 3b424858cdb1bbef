"""pictures of all variants -> scores -> table, grid and report."""

from kedro.pipeline import Pipeline, node

from blockwise_lora.pipelines.evaluation import nodes

CONCEPTS = ("character", "style")


def create_pipeline(**kwargs) -> Pipeline:
    """The comparison of the variants that were made."""
    shared = Pipeline([_base(), _evidence(), *_results(), _report()])
    return sum((_references(concept) for concept in CONCEPTS), shared)


def _references(concept: str) -> Pipeline:
    """A concept's curated pictures, brought out of the concept's namespace."""
    opened = node(nodes.open_references, "curated", "references", name="open_references")
    return Pipeline([opened], namespace=concept, outputs={"references": f"{concept}_references"})


def _base():
    shared = ("character", "style", "prompts", "combination", "base_model", "device", "seed")
    inputs = {name: f"params:{name}" for name in shared}
    return node(nodes.sample_base, inputs, "base_samples", name="sample_base")


def _evidence():
    shared = ("character", "style", "prompts", "truth", "compare", "variant", "evaluation")
    inputs = {name: f"params:{name}" for name in shared}
    data = ("base_samples", "all_samples", "all_adapters")
    data += ("character_references", "style_references")
    inputs |= {name: name for name in data}
    return node(nodes.gather_evidence, inputs, "evidence", name="gather_evidence")


def _results():
    return [
        node(
            nodes.judge,
            ["evidence", "params:evaluation", "params:device"],
            ["outcome", "judge_hashes"],
            name="judge",
        ),
        node(nodes.summarise, "outcome", "evaluation", name="summarise_scores"),
        node(nodes.tabulate, "outcome", "evaluation_table", name="tabulate_scores"),
        node(
            nodes.draw_comparison, ["evidence", "params:evaluation"], "grid", name="draw_comparison"
        ),
    ]


def _report():
    names = ("outcome", "judge_hashes", "evidence", "grid", "all_adapters", "all_losses")
    inputs = {name: name for name in (*names, "character_references", "style_references")}
    shared = ("evaluation", "variants")
    inputs |= {name: f"params:{name}" for name in shared}
    return node(nodes.write_report, inputs, "report", name="write_report")
