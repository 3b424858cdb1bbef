from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.config import OmegaConfigLoader

from blockwise_lora.pipelines.sweep.config import SweepConfig
from blockwise_lora.pipelines.sweep.setting import own_prompts, study_name
from blockwise_lora.settings import CONFIG_LOADER_ARGS
from blockwise_lora.sweep.candidates import Space

CONF = Path(__file__).parents[3] / "conf"


def test_each_prompt_of_a_sweep_has_noise_of_its_own():
    """Eight pictures of two noises would tell little more than two pictures."""
    parameters = OmegaConfigLoader(str(CONF), **CONFIG_LOADER_ARGS)["parameters"]
    config = SweepConfig.of(parameters["sweep"])
    brief, questions = own_prompts(config, 100, parameters)
    assert brief.seeds == ((100, 101), (102, 103), (104, 105), (106, 107))
    assert len(questions) == len(brief.templates) == 4
    study, search = config.first_seed, config.search.first_seed
    assert abs(study - search) > 1000, "nor do study and search share any"


def shop_of(keys: str = "ab", clip: str = "c", blocks: tuple[int, ...] = (0, 1)):
    """What a study's name knows of a workshop."""
    keys = dict(zip(("character", "style"), keys, strict=True))
    judges = {"clip": SimpleNamespace(sha256=clip), "dino": SimpleNamespace(sha256="d")}
    return SimpleNamespace(
        entry=lambda concept, mask: SimpleNamespace(key=(keys[concept] + mask) * 16),
        panel=SimpleNamespace(**judges, style_blocks=blocks),
    )


def space_of(*between: int) -> Space:
    concepts = ("character", "style")
    blocks, ranks = ("in0", "mid"), (0, *between, 8)
    return Space(dict.fromkeys(concepts, blocks), dict.fromkeys(concepts, ranks))


@pytest.fixture(scope="module")
def brief():
    parameters = OmegaConfigLoader(str(CONF), **CONFIG_LOADER_ARGS)["parameters"]
    return own_prompts(SweepConfig.of(parameters["sweep"]), 100, parameters)[0]


def test_what_decides_a_quick_look_decides_the_study(brief):
    """Else a database would hand out scores of other prompts, judges or ranks as these."""
    words = replace(brief.character, class_word="dog face")
    steps = replace(brief.sampling, steps=brief.sampling.steps + 1)
    names = [
        study_name(shop_of(), space_of(), brief),
        study_name(shop_of("xb"), space_of(), brief),
        study_name(shop_of("ax"), space_of(), brief),
        study_name(shop_of(clip="x"), space_of(), brief),
        study_name(shop_of(blocks=(2,)), space_of(), brief),
        study_name(shop_of(), space_of(4), brief),
        study_name(shop_of(), space_of(), replace(brief, templates=("{character}",) * 4)),
        study_name(shop_of(), space_of(), replace(brief, seeds=((1,), (2,), (3,), (4,)))),
        study_name(shop_of(), space_of(), replace(brief, character=words)),
        study_name(shop_of(), space_of(), replace(brief, sampling=steps)),
    ]
    assert len(set(names)) == len(names)


def test_workers_of_one_search_agree_on_its_study(brief):
    small = replace(brief, sampling=replace(brief.sampling, batch_size=1))
    one, other = (study_name(shop_of(), space_of(4), own) for own in (brief, small))
    assert one == other
