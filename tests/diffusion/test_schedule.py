import pytest

from blockwise_lora.diffusion.config import ScheduleConfig, TrainingConfig
from blockwise_lora.diffusion.schedule import learning_rate


@pytest.mark.parametrize(
    ("decay", "rates"),
    [
        ("constant", [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
        ("cosine", [0.2, 0.4, 0.6, 0.8, 1, 0.93301, 0.75, 0.5, 0.25, 0.06699]),
    ],
)
def test_schedules_by_hand(decay, rates):
    config = TrainingConfig(
        steps=10, learning_rate=1.0, schedule=ScheduleConfig(decay, warmup_steps=4)
    )
    assert [learning_rate(config, s) for s in range(10)] == pytest.approx(rates, abs=1e-5)


def test_each_cycle_falls_from_the_peak():
    schedule = ScheduleConfig("linear", warmup_steps=2, cycles=2)
    config = TrainingConfig(steps=10, learning_rate=1.0, schedule=schedule)
    once = [1, 0.75, 0.5, 0.25]
    rates = [learning_rate(config, s) for s in range(10)]
    assert rates == pytest.approx([1 / 3, 2 / 3, *once, *once])
