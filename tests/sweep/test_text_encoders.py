"""Studies whose masks name the text encoders (`base`), from pictures to the page."""

import dataclasses

import pytest
import torch
from PIL import Image

from blockwise_lora.diffusion import loop
from blockwise_lora.diffusion.prompts import Concept
from blockwise_lora.diffusion.sampling import SamplingConfig
from blockwise_lora.judges.panel import JudgeConfig, Panel
from blockwise_lora.judges.protocol import BootstrapConfig
from blockwise_lora.judges.samples import Question, References
from blockwise_lora.report.sweep.heatmap import HeatMap
from blockwise_lora.report.sweep.page import SweepReport, render
from blockwise_lora.sweep.outcome import row_of
from blockwise_lora.sweep.pictures import Brief
from blockwise_lora.sweep.records import mask_records
from blockwise_lora.sweep.studies import CONCEPTS, Pair, named_study, own_study
from blockwise_lora.sweep.workshop import Workshop, run_study

FULL, WITH, ALONE = Pair("all", "all"), Pair("all+base", "all"), Pair("base", "all")
OTHER = Pair("mid", "all")
BRIEF = Brief(
    ("{style}, {character}",),
    (0, 1),
    Concept("zkc", "square"),
    Concept("qwo", "style"),
    SamplingConfig(steps=2, guidance_scale=1.0),
)


@pytest.fixture
def shop(base, lesson, bank, judge_folders, tmp_path) -> Workshop:
    pictures = tuple(Image.open(p.path).convert("RGB") for p in lesson.images)
    judges = JudgeConfig(**{name: str(folder) for name, folder in judge_folders.items()})
    named = {c: dataclasses.replace(lesson, concept=c, words={"concept": c}) for c in CONCEPTS}
    return Workshop(
        base=base,
        lessons=named,
        panel=Panel.load(judges),
        references=References(**dict.fromkeys(CONCEPTS, pictures)),
        bank=bank,
        pictures=tmp_path / "pictures",
        bootstrap=BootstrapConfig(draws=50),
    )


@pytest.fixture
def study(shop):
    specs = {c: shop.lessons[c].spec for c in CONCEPTS}
    return own_study("mine", [FULL, WITH, ALONE, OTHER], shop.blocks, **specs)


def test_masks_with_the_text_encoder_are_trained_drawn_and_shown(shop, study):
    before = {k: v.clone() for k, v in shop.base.text_encoder.state_dict().items()}
    outcome = run_study(shop, study, BRIEF, [Question("style, square")])
    assert outcome.trained == (FULL, WITH, ALONE, OTHER)
    assert outcome.ablated == (OTHER,), "a full adapter has no text encoder to switch off"
    after = shop.base.text_encoder.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)

    layers = {
        mask: shop.entry("character", mask).read().updates for mask in study.masks("character")
    }
    assert all(name.startswith("text_encoder.") for name in layers["base"])
    assert set(layers["all+base"]) == set(layers["base"]) | set(layers["all"])
    pictures = {
        pair: [p.tobytes() for p in shop.studio(BRIEF).samples(shop.trained(pair)).pictures]
        for pair in outcome.trained
    }
    assert len(set(map(tuple, pictures.values()))) == 4, "what the text encoder learned is drawn"

    ranks = {r.name: r.parameters["character"]["rank_of"] for r in mask_records(shop, outcome, str)}
    assert ranks["character: base"]["base"] == 2 and ranks["character: mid"]["base"] == 0
    cost = {mask: shop.entry("character", mask).cost for mask in ("all", "all+base")}
    assert cost["all+base"].memory_bytes > cost["all"].memory_bytes

    page = SweepReport(
        "t", outcome, None, shop.blocks, ("p",), {}, "{character}", "{style}", (), {}, {}, 0.9
    )
    assert page.blocks[:2] == ("base", "in0")
    gone = HeatMap.skipping(outcome, page.blocks).cells["character", "prompt"][0]
    added = outcome.effects[row_of(WITH)]["prompt"]
    assert added.mean and (gone.mean, gone.low, gone.high) == (-added.mean, -added.high, -added.low)
    alone = HeatMap.keeping(outcome, page.blocks).cells["character", "prompt"][0]
    assert alone == outcome.effects[row_of(ALONE)]["prompt"]
    assert "base" not in HeatMap.skipping(outcome, page.blocks, "ablated").blocks
    assert "base: the text encoder" in render(page)
    without = dataclasses.replace(outcome, trained=(FULL, OTHER))
    assert "base" not in dataclasses.replace(page, outcome=without).blocks


def test_what_may_share_a_pass_does(shop, study, monkeypatch):
    """Masks that change the text share nothing before their first block, but the pass."""
    passes, predict = [], loop.predict

    def watched(model, batches):
        passes.append((type(batches[0].text).__name__, len(batches)))
        return predict(model, batches)

    monkeypatch.setattr(loop, "predict", watched)
    shop.train(study.pairs)
    # The character's two masks with `base`, then its others from one stream; the style's only one.
    assert passes == [("TokenIds", 2), ("Text", 1)] * 2 + [("Text", 1)] * 2


def test_named_studies_leave_the_text_encoder_alone(shop):
    specs = {c: shop.lessons[c].spec for c in CONCEPTS}
    for name in ("paper", "fine"):
        masks = named_study(name, shop.blocks, **specs).masks("character")
        assert not any("base" in mask for mask in masks)
