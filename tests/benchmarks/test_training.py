"""The benchmark compares what is comparable: both loops give one loss from one noise."""

import subprocess
import sys
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


def test_it_runs_where_only_the_plain_library_is(tiny_base_folder, tmp_path):
    """Neither Kedro nor MLflow nor DVC nor click can be imported; the page has every table."""
    hidden = "kedro", "kedro_datasets", "mlflow", "dvc", "click", "pandas"
    code = f"import sys; sys.modules |= dict.fromkeys({hidden}); import runpy; "
    script = Path(__file__).parents[2] / "benchmarks" / "training.py"
    code += f"sys.path.insert(0, {str(script.parent)!r}); "
    code += f"runpy.run_path({str(script)!r}, run_name='__main__')"
    counts = ("--batches", "1", "--group-batches", "1", "--adapters", "2", "--rank", "2")
    few = ("--steps", "1", "--rounds", "1", "--results", str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code, "--model", str(tiny_base_folder), *counts, *few],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("training_*_cpu.md")
    for part in (
        "| lora | 1 |",
        "| locon | 1 |",
        "text encoder",
        "| in0-out1 (character) |",
        "seeds",
    ):
        assert part in page.read_text()
