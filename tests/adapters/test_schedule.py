import pytest
import torch

from blockwise_lora.adapters import AdapterError, AdapterSpec, Schedule, scheduled, set_strengths


def course(schedule: Schedule, steps: int) -> list[float]:
    return [schedule.factor(step, steps) for step in range(steps)]


@pytest.mark.parametrize(
    ("schedule", "steps", "expected"),
    [
        (Schedule(), 3, [1, 1, 1]),
        (Schedule(start=0.5), 4, [0, 0, 1, 1]),
        (Schedule(stop=0.5), 4, [1, 1, 0, 0]),
        (Schedule(start=0.5), 5, [0, 0, 0, 1, 1]),
        (Schedule(0.3, 0.6), 10, [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]),
        (Schedule(factors=(1, 0.5)), 4, [1, 1, 0.5, 0.5]),
        (Schedule(factors=(1, 0.5, 0.25)), 3, [1, 0.5, 0.25]),
        (Schedule(factors=(2, 1)), 5, [2, 2, 2, 1, 1]),
        (Schedule(0.25, 0.75, (4, 3, 2, 1)), 4, [0, 3, 2, 0]),
    ],
)
def test_the_course_of_a_schedule(schedule, steps, expected):
    assert course(schedule, steps) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": 0.5, "stop": 0.5}, "0 <= start < stop <= 1"),
        ({"start": -0.1}, "0 <= start"),
        ({"stop": 20}, "not 0.0 and 20"),
        ({"start": float("nan")}, "0 <= start"),
        ({"factors": (1.0, float("inf"))}, "finite"),
    ],
)
def test_what_is_no_schedule(values, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**values)


def test_more_factors_than_steps_are_refused():
    with pytest.raises(ValueError, match="3 factors for 2 steps, so some would never act"):
        Schedule(factors=(1, 2, 3)).factor(0, 2)


def test_each_step_acts_as_its_strengths(tiny_unet, trained, output):
    trained(tiny_unet, AdapterSpec("mid", "locon"), "one", 1)
    trained(tiny_unet, AdapterSpec("mid", "oft"), "two", 2)
    strengths = {"one": {"mid": 0.8}, "two": 0.5}
    hook = scheduled(tiny_unet, strengths, {"two": Schedule(0.5, 1, (1, 0.5))})
    expected = []
    for factor in (0, 0, 0.5, 0.5):
        set_strengths(tiny_unet, strengths | {"two": 0.5 * factor})
        expected.append(output(tiny_unet))
    for _ in range(2):  # the next picture starts from the beginning
        for step in range(4):
            hook(step, 4)
            assert torch.equal(output(tiny_unet), expected[step])


def test_unknown_adapters_are_named(tiny_unet, trained):
    trained(tiny_unet, AdapterSpec("mid"), "one")
    with pytest.raises(AdapterError, match=r"no adapter 'two'.*attached: one"):
        scheduled(tiny_unet, {"one": 1.0}, {"two": Schedule()})
