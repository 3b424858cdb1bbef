from pathlib import Path

from kedro.config import OmegaConfigLoader

from blockwise_lora.pipelines.sweep.config import SweepConfig
from blockwise_lora.pipelines.sweep.setting import own_prompts
from blockwise_lora.settings import CONFIG_LOADER_ARGS

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
