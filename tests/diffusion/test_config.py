import pytest

from blockwise_lora.diffusion.config import ScheduleConfig, TrainingConfig
from blockwise_lora.parameters import ParameterError, asdict, typed


def test_all_mistakes_are_told_at_once():
    mistakes = {
        "steps": 0,
        "learning_rate": -1.0,
        "optimizer": {"betas": [0.9, 1.0], "max_grad_norm": 0.0, "ema": 1.0},
        "captions": {"dropout": 1.0},
        "loss": {"min_snr_gamma": 0.0},
        "noise": {"lowest": 0.5, "highest": 0.5},
        "prior": {"weight": -1.0, "min_snr_gamma": 0.0},
    }
    with pytest.raises(ParameterError) as caught:
        typed(TrainingConfig, mistakes, "training")
    for group in ("optimizer: betas", "optimizer: max_grad_norm", "optimizer: ema"):
        assert f"training.{group}" in str(caught.value)
    for group in ("captions: dropout", "loss: min_snr_gamma", "noise: lowest", "prior: weight"):
        assert f"training.{group}" in str(caught.value)
    assert "training.prior: min_snr_gamma" in str(caught.value)
    with pytest.raises(ParameterError, match=r"(?s)steps is.*learning_rate is"):
        typed(TrainingConfig, {"steps": 0, "learning_rate": -1.0}, "training")


def test_a_warm_up_longer_than_the_training():
    with pytest.raises(ValueError, match=r"warmup_steps \(10\) is below steps \(10\)"):
        TrainingConfig(steps=10, schedule=ScheduleConfig(warmup_steps=10))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"augment": {"colour": 0.2}}, "the latents are cached.*variants"),
        ({"augment": {"variants": 3}}, "by crop or colour"),
        ({"optimizer": {"name": "prodigy", "lora_plus_ratio": 4.0}}, "prodigy knows one rate"),
        ({"validation": {"every": 5, "best_by": "loss"}}, "needs held_out"),
        ({"validation": {"every": 5, "best_by": "score"}}, "needs judge"),
        ({"validation": {"every": 5, "judge": True}}, "judge needs prompts"),
        ({"validation": {"every": 5, "patience": 2}}, "patience needs best_by"),
        ({"validation": {"held_out": 2}}, "need every"),
    ],
)
def test_values_that_contradict_each_other(group, message):
    with pytest.raises(ParameterError, match=message):
        typed(TrainingConfig, group, "training")


def test_a_configuration_is_read_back_from_plain_values():
    config = TrainingConfig(schedule=ScheduleConfig("linear", 3))
    assert typed(TrainingConfig, asdict(config)) == config
    assert hash(config) == hash(typed(TrainingConfig, asdict(config)))
