import pytest

from blockwise_lora.diffusion.config import TrainingConfig
from blockwise_lora.parameters import ParameterError, typed


def test_all_mistakes_are_told_at_once():
    mistakes = {"steps": 0, "learning_rate": -1.0, "caption_dropout": 1.0, "min_snr_gamma": 0.0}
    with pytest.raises(ParameterError) as caught:
        typed(TrainingConfig, mistakes | {"betas": [0.9, 1.0]}, "training")
    for name in (*mistakes, "betas"):
        assert name in str(caught.value)


def test_a_warm_up_longer_than_the_training():
    with pytest.raises(ValueError, match=r"warmup_steps \(10\) is below steps \(10\)"):
        TrainingConfig(steps=10, warmup_steps=10)
