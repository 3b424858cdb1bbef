"""corpus -> VAE, CLIP, DINO -> U-Net -> export -> card."""

from kedro.pipeline import Pipeline, node

from blockwise_lora.pipelines.pretraining import nodes


def create_pipeline(**kwargs) -> Pipeline:
    """The pipeline that makes what the repository ships."""
    p = "params:pretraining"
    parts = ["pretraining_vae", "pretraining_clip", "pretraining_dino", "pretraining_unet"]
    return Pipeline(
        [
            node(nodes.draw_corpus, p, "pretraining_corpus", name="draw_corpus"),
            node(nodes.train_vae, [p, "pretraining_corpus"], parts[0], name="train_vae"),
            node(nodes.train_clip, [p, "pretraining_corpus"], parts[1], name="train_clip"),
            node(nodes.train_dino, [p, "pretraining_corpus"], parts[2], name="train_dino"),
            node(nodes.train_unet, [p, parts[0], parts[1]], parts[3], name="train_unet"),
            node(nodes.export, [p, *parts], "pretraining_hours", name="export_models"),
            node(nodes.describe, [p, "pretraining_hours"], "pretraining_figures", name="describe"),
        ]
    )
