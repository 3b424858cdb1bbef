"""The benchmark compares what is comparable: both loops give one loss from one noise."""

from pathlib import Path

import pytest

from blockwise_lora.adapters import attached_names
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_pictures


@pytest.fixture
def bench(monkeypatch, loaded_tiny_base, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from measuring import Bench

    images = read_imagefolder(write_tiny_pictures(tmp_path / "set"))
    return Bench(loaded_tiny_base, images, "locon", rank=2, steps=1)


def test_both_loops_give_the_same_loss(bench):
    assert bench.loss_difference(3) < 1e-5


def test_everything_is_measured_and_the_model_left_as_it_was(bench):
    assert bench.ours(["all", "mid"], 2) > 0 and bench.theirs("mid", 2) > 0
    assert bench.memory_ratio(1) > 0
    assert {name.split(":")[0] for name in bench.stages(1)} == {"ours", "diffusers"}
    assert attached_names(bench.base.unet) == ()
