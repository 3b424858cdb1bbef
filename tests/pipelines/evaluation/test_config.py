from pathlib import Path

import pytest
import yaml

from blockwise_lora.parameters import ParameterError
from blockwise_lora.pipelines.evaluation.config import EvaluationConfig

CONF = Path(__file__).parents[3] / "conf"


def group(environment: str) -> dict:
    text = (CONF / environment / "parameters_evaluation.yml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["evaluation"]


def merged(base: dict, other: dict) -> dict:
    both = {k: merged(v, other[k]) for k, v in base.items() if isinstance(v, dict) and k in other}
    return base | other | both


@pytest.mark.parametrize("environment", ["base", "sd15", "test"])
def test_every_environment_is_understood(environment):
    config = EvaluationConfig.of(merged(group("base"), group(environment)))
    assert config.judge_config().style_blocks == (0, 1)
    assert config.bootstrap_config().level == 0.95
    assert config.names["blockwise"] == "block-wise"


def test_the_public_judges_are_known_by_their_names():
    import timm
    from open_clip.pretrained import get_pretrained_cfg

    judges = group("sd15")["judges"]
    assert timm.is_model_pretrained(judges["dino"])
    assert get_pretrained_cfg(*judges["clip"].split("/"))["hf_hub"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": 3}, "tile: at least 16 pixels"),
        ({"jugdes": {}}, "did you mean 'judges'"),
        ({"names": {"lora": 3}}, "evaluation.names"),
    ],
)
def test_mistakes_are_told(change, message):
    with pytest.raises(ParameterError, match=message):
        EvaluationConfig.of(group("base") | change)


def test_mistakes_of_the_inner_groups_are_told():
    wrong = group("base") | {"bootstrap": {"level": 95}, "judges": {"clip": "x"}}
    config = EvaluationConfig.of(wrong)
    with pytest.raises(ParameterError, match=r"evaluation\.bootstrap"):
        config.bootstrap_config()
    with pytest.raises(ParameterError, match=r"evaluation\.judges\.dino: missing"):
        config.judge_config()
