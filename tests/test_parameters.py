from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from blockwise_lora.errors import UserError
from blockwise_lora.parameters import ParameterError, asdict, typed


@dataclass(frozen=True)
class Inner:
    rank: int = 8
    alpha: float | None = None


@dataclass(frozen=True)
class Config:
    name: str
    steps: int = 10
    rate: float = 1e-3
    method: Literal["lora", "locon"] = "lora"
    inner: Inner = Inner()
    seeds: tuple[int, ...] = ()
    size: tuple[int, int] = (64, 64)
    others: Mapping[str, Inner] = field(default_factory=dict)
    folder: Path | None = None
    flag: bool = False

    def __post_init__(self):
        if self.steps < 1:
            raise ValueError("steps: must be at least 1")


def mistakes(mapping: Any) -> list[str]:
    with pytest.raises(ParameterError) as caught:
        typed(Config, mapping, "training")
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def test_values_and_defaults():
    config = typed(
        Config,
        {
            "name": "cat",
            "rate": 1,
            "inner": {"alpha": 2},
            "seeds": [1, 2],
            "others": {"style": {"rank": 4}},
            "folder": "data/x",
        },
    )
    assert config == Config(
        name="cat",
        rate=1.0,
        inner=Inner(alpha=2.0),
        seeds=(1, 2),
        others={"style": Inner(rank=4)},
        folder=Path("data/x"),
    )
    assert type(config.rate) is float
    assert type(config.inner.alpha) is float


def test_yaml_reads_a_number_without_a_dot_as_text():
    assert typed(Config, {"name": "cat", "rate": "1e-4"}).rate == 1e-4


def test_round_trip():
    config = Config(name="cat", folder=Path("a"), others={"x": Inner(1)}, seeds=(3,))
    assert typed(Config, asdict(config)) == config


def test_all_mistakes_at_once_with_suggestions():
    lines = mistakes(
        {
            "step": 5,
            "rate": "fast",
            "method": "loco",
            "inner": {"rnk": 4, "alpha": True},
            "seeds": [1, "two"],
            "size": [1],
            "others": {"style": 3},
        }
    )
    assert lines == [
        "training.step: unknown parameter; did you mean 'steps'?",
        "training.name: missing (a string)",
        "training.rate: expected a number, got 'fast' (str)",
        "training.method: expected 'lora' or 'locon', got 'loco' (str); did you mean 'locon'?",
        "training.inner.rnk: unknown parameter; did you mean 'rank'?",
        "training.inner.alpha: expected a number or null, got True (bool)",
        "training.seeds[1]: expected an integer, got 'two' (str)",
        "training.size: expected 2 values, got 1",
        "training.others.style: expected a mapping of parameters, got 3 (int)",
    ]


def test_a_far_off_name_gets_the_list_of_known_ones():
    (line,) = mistakes({"name": "cat", "zzz": 1})
    assert "known: name, steps" in line


@pytest.mark.parametrize(
    ("key", "value"),
    [("steps", True), ("steps", 1.5), ("name", None), ("flag", 1), ("seeds", 3), ("inner", [])],
)
def test_wrong_types(key, value):
    lines = mistakes({"name": "cat", key: value})
    assert len(lines) == 1
    assert lines[0].startswith(f"training.{key}: expected")


def test_the_dataclass_own_check_is_reported():
    assert mistakes({"name": "cat", "steps": 0}) == ["training: steps: must be at least 1"]


def test_not_a_mapping():
    assert mistakes([1]) == ["training: expected a mapping of parameters, got [1] (list)"]


def test_none_counts_as_empty():
    assert typed(Inner, None) == Inner()


def test_is_shown_to_the_user():
    assert issubclass(ParameterError, UserError)
