"""What the report tells of how its pictures came about."""

import json

from PIL import Image

from blockwise_lora.adapters import Adapter, AdapterSpec
from blockwise_lora.diffusion.combination import CombinationConfig, Strengths
from blockwise_lora.diffusion.merging import MergeConfig
from blockwise_lora.diffusion.sampling import SamplingConfig
from blockwise_lora.judges.samples import BASE, References, Row, Sample
from blockwise_lora.pipelines.evaluation import account
from blockwise_lora.pipelines.evaluation.config import EvaluationConfig
from blockwise_lora.pipelines.evaluation.evidence import Evidence


def adapter(mask: str, blocks: dict, training: dict | None = None) -> Adapter:
    told = {"blocks": json.dumps(blocks), "training": json.dumps(training or {})}
    metadata = {f"blockwise_lora.{key}": value for key, value in told.items()}
    return Adapter({}, {}, AdapterSpec(blocks=mask, rank=4), metadata, "0" * 64)


def test_a_text_encoder_is_a_block_of_its_own():
    blocks = {
        "OUT11": {"modules": ["up_blocks.3.resnets.2"], "ranks": [4]},
        "BASE": {"modules": ["text_encoder", "text_encoder_2"], "ranks": [2]},
    }
    (card,) = account.cards({("own", "style"): adapter("out3+base", blocks)})
    shown = dict(zip(card.strip.blocks, card.strip.ranks, strict=True))
    assert shown["base"] == (2,) and shown["out3"] == (4,) and shown["mid"] == ()
    only = {"MID": {"modules": ["mid_block"], "ranks": [4]}}
    (card,) = account.cards({("own", "style"): adapter("mid", only)})
    assert "base" not in card.strip.blocks


def test_settings_are_those_of_the_pictures(project):
    sampling = SamplingConfig(steps=12, guidance_scale=4.0)
    combinations = {
        "lora": CombinationConfig(sampling=sampling),
        "locon": CombinationConfig(sampling=sampling),
        "own": CombinationConfig(
            strengths=Strengths(style=0.5), merge=MergeConfig("linear"), sampling=sampling
        ),
    }
    samples = tuple(Sample(Row(BASE), 0, seed, None) for seed in (7, 3, 3))
    picture = (Image.new("RGB", (4, 4)),)
    evidence = Evidence(samples, (), References(picture, picture), combinations)
    adapters = {
        ("lora", "style"): adapter("mid", {}, {"steps": 200}),
        ("own", "style"): adapter("mid", {}, {"steps": 300}),
    }
    config = EvaluationConfig.of(project.parameters["evaluation"])
    told = account.settings(adapters, evidence, config)
    assert told["seeds"] == "3, 7"
    assert told["sampling"] == "dpm++2m, 12 steps, guidance 4"
    assert told["strengths (lora, locon)"] == "character 1.0, style 1.0"
    assert told["strengths (own)"] == "character 1.0, style 0.5, merge.rule linear"
    assert told["training, style (lora)"] == "steps 200"
    assert told["training, style (own)"] == "steps 300"
