from pathlib import Path

import pytest
from kedro.config import OmegaConfigLoader

from blockwise_lora.errors import UserError
from blockwise_lora.imagesets import read_imagefolder
from blockwise_lora.pipelines.sweep.nodes import _recommended, _told, run_search
from blockwise_lora.settings import CONFIG_LOADER_ARGS
from tiny_base import write_tiny_pictures

CONF = Path(__file__).parents[3] / "conf"


@pytest.fixture
def arguments(tmp_path) -> dict:
    """Of a search whose base model is not there: whoever loads it first fails with that."""
    parameters = OmegaConfigLoader(str(CONF), **CONFIG_LOADER_ARGS)["parameters"]
    parameters |= {"base_model": {"source": str(tmp_path / "none")}, "truth": None}
    parameters |= {"prompts": [{"text": "{style}, {character}, kissing"}]}
    images = read_imagefolder(write_tiny_pictures(tmp_path / "set", 2))
    folders = {"bank": tmp_path / "bank", "pictures": tmp_path / "pictures"}
    return {"character_images": images, "style_images": images} | folders | parameters


def test_a_prompt_of_search_and_confirmation_is_told_before_a_model_is_loaded(arguments):
    arguments["prompts"] = [{"text": arguments["sweep"]["prompts"][0]}]
    with pytest.raises(UserError, match=r"sweep\.prompts and prompts share prompts: .*sleeping"):
        run_search(**arguments)


def test_a_seed_of_both_is_told_before_a_model_is_loaded(arguments):
    arguments["sweep"]["search"]["first_seed"] = arguments["seed"]
    with pytest.raises(UserError, match=r"sweep\.search\.first_seed and seed share seeds"):
        run_search(**arguments)


def test_what_is_kept_apart_goes_on_to_the_model(arguments):
    with pytest.raises(UserError, match="none"):
        run_search(**arguments)


def test_the_recommended_variant_is_the_sweeps_with_places_for_the_masks():
    """Whatever else its definition says goes into it; a list has no place on a command line."""
    learned = {"training": {"steps": 400, "prior": {"contexts": ["{caption}"]}}}
    defined = {"method": "locon", "blocks": "all", "rank": 16, "conv_rank": 8}
    variants = {"locon": {"character": defined, "style": defined | learned}}
    parameters = {"variants": variants, "sweep": {"prompts": ["x"], "variant": "locon"}}
    recommended = _recommended(parameters)
    assert recommended["character"] == defined | {"blocks": "{character}"}
    assert recommended["style"] == defined | learned | {"blocks": "{style}"}
    told = _told(recommended)
    assert told["character.conv_rank"] == 8 and told["style.training.steps"] == 400
    assert told["style.blocks"] == "{style}" and "style.training.prior.contexts" not in told
