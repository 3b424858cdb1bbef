from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from kedro.config import OmegaConfigLoader

from blockwise_lora.adapters import AdapterSpec, Plan
from blockwise_lora.blocks import BlockMap
from blockwise_lora.diffusion.combination import CombinationConfig
from blockwise_lora.diffusion.prompts import parse_prompts
from blockwise_lora.parameters import ParameterError, typed
from blockwise_lora.pipelines.training.recipes import CONCEPTS, resolve, words

VARIANTS = {
    "lora": {
        "character": {"method": "lora", "blocks": "all", "rank": 8},
        "style": {"blocks": "out3", "training": {"steps": 50, "learning_rate": 1e-2}},
    },
    "empty": None,
}
CHARACTER = {"pictures": "somewhere", "trigger": "zkc", "class_word": "cat"}
CHARACTER |= {"review": "review.csv", "source": "me", "licence": "CC0-1.0"}


def recipe(name="character", concept=None, variant="lora", training=None, seed=3):
    return resolve(
        name,
        concept=CHARACTER | (concept or {}),
        variant=variant,
        variants=VARIANTS,
        training={"steps": 100} if training is None else training,
        seed=seed,
    )


def test_the_variant_says_what_is_trained():
    assert recipe().spec == AdapterSpec("all", "lora", 8)
    assert recipe("style").spec == AdapterSpec("out3")
    assert recipe().concept.words == "zkc cat"


def test_the_user_overrides_the_variant():
    got = recipe(concept={"blocks": "out1-out3", "rank": 4}).spec
    assert got == AdapterSpec("out1-out3", "lora", 4)


def test_training_is_common_then_the_variants_then_the_concepts():
    assert recipe().config.steps == 100
    own = recipe("style", {"training": {"steps": 70}}).config
    assert (own.steps, own.learning_rate) == (70, 1e-2)


def test_groups_are_merged_value_by_value():
    common = {"schedule": {"decay": "linear", "warmup_steps": 5}, "loss": {"min_snr_gamma": None}}
    own = {"training": {"schedule": {"warmup_steps": 7}}}
    got = recipe("style", own, training=common).config
    assert (got.schedule.decay, got.schedule.warmup_steps) == ("linear", 7)
    assert got.loss.min_snr_gamma is None


def test_the_training_knows_the_trigger():
    assert recipe().config.trigger == "zkc"


def test_the_runs_seed_unless_training_has_its_own():
    assert recipe().config.seed == 3
    assert recipe(training={"seed": 9}).config.seed == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"concept": {"block": "out1"}}, r"character\.block: unknown.*did you mean 'blocks'"),
        ({"concept": {"blocks": "out9+"}}, "out9"),
        ({"concept": {"rank": "eight"}}, r"character\.rank"),
        ({"concept": {"training": 3}}, r"training: expected a group"),
        ({"training": {"step": 3}}, r"training\.step: unknown.*did you mean 'steps'"),
        ({"variant": "lorra"}, r"'lorra' is none of lora, empty; did you mean 'lora'"),
        ({"variant": "../lora"}, "cannot be a folder's name"),
        ({"variant": "v1.5"}, "take letters"),  # dvc.yaml would look for `5` below `v1`
        ({"variant": "sweep"}, "the name of something else"),
        ({"variant": "empty"}, r"variants\.empty\.character: missing"),
    ],
)
def test_mistakes_name_their_parameter(change, message):
    with pytest.raises(ParameterError, match=message):
        recipe(**change)


def test_words_need_a_trigger():
    with pytest.raises(ParameterError, match=r"style\.trigger: missing"):
        words("style", {"class_word": "style"})


SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
}
RANKS = {"base": {8}, "test": {8}, "sd15": {16}, "sdxl": {16, 64}}


@pytest.mark.parametrize("env", RANKS)
def test_the_parameters_of_every_environment_fit(env):
    conf = Path(__file__).parents[3] / "conf"
    loader = OmegaConfigLoader(
        str(conf), env=env, base_env="base", merge_strategy={"parameters": "soft"}
    )
    given, ranks = loader["parameters"], set()
    # Full size, without weights: SD 1.x for the embedded model, which has its structure.
    with torch.device("meta"):
        blocks = BlockMap.of(UNet2DConditionModel(**(SDXL if env == "sdxl" else SD15)))
    for variant in given["variants"]:
        for name in CONCEPTS:
            made = resolve(
                name,
                concept=given[name],
                variant=variant,
                variants=given["variants"],
                training=given["training"],
                seed=given["seed"],
            )
            assert Plan.of(blocks, made.spec).layers, "the mask fits the model"
            if made.spec.method != "full":  # which has none
                ranks.add(made.spec.rank)
    assert ranks == RANKS[env]
    combination = typed(CombinationConfig, given["combination"], "combination")
    assert combination.pictures_per_prompt >= 1
    guidance = combination.sampling.guidance_scale
    assert made.config.validation.guidance_scale == made.config.prior.guidance_scale == guidance
    assert made.config.trigger_embedding.learning_rate >= made.config.learning_rate
    assert parse_prompts(given["prompts"])
