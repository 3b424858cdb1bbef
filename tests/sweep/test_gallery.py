import dataclasses

import numpy as np
import pytest

from blockwise_lora.diffusion.prompts import Concept
from blockwise_lora.diffusion.sampling import SamplingConfig
from blockwise_lora.judges.panel import JudgeConfig, Panel
from blockwise_lora.judges.protocol import BootstrapConfig
from blockwise_lora.judges.samples import BASE, Question, References, Row
from blockwise_lora.sweep import gallery as module
from blockwise_lora.sweep import pictures
from blockwise_lora.sweep.gallery import Gallery
from blockwise_lora.sweep.outcome import row_of
from blockwise_lora.sweep.pictures import Brief
from blockwise_lora.sweep.studies import CONCEPTS, FULL, Pair
from blockwise_lora.sweep.workshop import Workshop

FULL_PAIR, CUT = Pair(FULL, FULL), Pair("all+mid:0", "all")
BRIEF = Brief(
    ("{style}, {character}", "{style}, {character}, weary"),
    (0, 1, 2),
    Concept("zkc", "cat"),
    Concept("qwo", "style"),
    SamplingConfig(steps=2, guidance_scale=1.0, batch_size=64),
)
QUESTIONS = (Question("cat"), Question("cat, weary"))


@pytest.fixture
def shop(base, images, lesson, bank, judge_folders, tmp_path) -> Workshop:
    opened = tuple(picture.open() for picture in images)
    return Workshop(
        base=base,
        lessons={c: dataclasses.replace(lesson, concept=c) for c in CONCEPTS},
        panel=Panel.load(JudgeConfig(*(str(judge_folders[name]) for name in ("clip", "dino")))),
        references=References(opened[:3], opened[3:]),
        bank=bank,
        pictures=tmp_path / "pictures",
        bootstrap=BootstrapConfig(draws=50),
    )


@pytest.fixture
def gallery(shop) -> Gallery:
    shop.train([FULL_PAIR])
    return Gallery(shop, BRIEF, QUESTIONS)


def test_a_quick_look_is_half_of_the_seeds_in_half_of_the_steps(gallery, monkeypatch):
    sampled = []

    def counted(*args, **kwargs):
        sampled.append((args[2], kwargs["config"].steps))
        return real(*args, **kwargs)

    real = pictures.sample_conditions
    monkeypatch.setattr(pictures, "sample_conditions", counted)
    quick, whole = (gallery.ablated(CUT, quick=flag) for flag in (True, False))
    gallery.ablated(CUT, quick=True)
    assert sampled == [(((0,), (0,)), 1), ((0, 1, 2), 2)], "each once"
    assert {row.seed for row in quick.samples.rows} == {0}
    assert {(r.prompt_index, r.seed) for r in whole.samples.rows} == {
        (prompt, seed) for prompt in (0, 1) for seed in BRIEF.seeds
    }
    assert [t.row for t in (quick, whole)] == [row_of(CUT, "ablated")] * 2


def test_what_every_candidate_is_judged_with_is_looked_at_once(gallery, shop, monkeypatch):
    looked = []
    real = type(shop.panel.dino).images

    def counted(judge, pictures):
        looked.append(len(pictures))
        return real(judge, pictures)

    monkeypatch.setattr(type(shop.panel.dino), "images", counted)
    tried = [gallery.ablated(FULL_PAIR, quick=True), gallery.ablated(CUT)]
    apart = [gallery.judged([one]) for one in tried]
    assert looked == [5 + 6, 2, 6], "references and base pictures, then each candidate's own"
    monkeypatch.setattr(module, "judge", without_memory)
    for one, judged in zip(tried, apart, strict=True):
        anew = gallery.judged([one])
        assert [s.seed for s in judged.samples if s.row == Row(BASE)] == [
            s.seed for s in anew.samples if s.row == Row(BASE)
        ]
        for score in ("identity", "style", "prompt"):
            a, b = (x.scores(one.row, score).values for x in (judged, anew))
            assert np.allclose(a, b, atol=1e-4)


def without_memory(panel, samples, questions, references, known):
    from blockwise_lora.judges.protocol import judge

    return judge(panel, samples, questions, references)


def test_an_outcome_compares_with_the_full_pair_on_all_seeds(gallery):
    outcome = gallery.outcome("mine", [gallery.trained(FULL_PAIR), gallery.ablated(CUT)])
    assert outcome.trained == (FULL_PAIR,) and outcome.ablated == (CUT,)
    assert outcome.scores[row_of(CUT, "ablated")]["prompt"].n == 6


def test_one_seed_and_one_step_are_not_halved(shop):
    shop.train([FULL_PAIR])
    sampling = dataclasses.replace(BRIEF.sampling, steps=1)
    one = Gallery(shop, dataclasses.replace(BRIEF, seeds=(4,), sampling=sampling), QUESTIONS)
    quick, whole = (one.ablated(CUT, quick=flag).samples for flag in (True, False))
    assert quick.rows == whole.rows and len(quick) == 2


def test_where_base_pictures_are_as_good_as_real_ones_the_plain_score_is_compared(gallery, caplog):
    """A search must not end for it: candidates still differ."""
    tried = gallery.ablated(FULL_PAIR)
    judged = gallery.judged([tried])
    judged.scales["identity"] = dataclasses.replace(judged.scales["identity"], error=1e9)
    gallery.judged = lambda tried: judged
    plain = judged.scores(tried.row, "identity").values.mean()
    assert gallery.scores(tried).identity == pytest.approx(plain)
    gallery.scores(tried)
    assert caplog.text.count("the judge of identity") == 1
