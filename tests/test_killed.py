"""`kedro run` is killed with SIGKILL and started again: same bits, and one record in MLflow."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from blockwise_lora.tracking import Tracker
from tiny_base import write_tiny_pictures

ROOT = Path(__file__).parents[1]
EXPERIMENT = "blockwise-lora-test"


@pytest.fixture
def project(tmp_path, tiny_base_folder) -> Path:
    """The project's configuration with tiny pictures and a tiny model; six steps, saved by two."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "src").mkdir()  # Kedro asks for it; the package is the installed one
    test = tmp_path / "conf" / "test"
    (test / "globals.yml").write_text("outputs: data\n")
    parameters = {"base_model": {"source": str(tiny_base_folder)}}
    parameters |= {"tracking": {"experiment": EXPERIMENT}}
    (test / "parameters.yml").write_text(yaml.safe_dump(parameters))
    training = yaml.safe_load((test / "parameters_training.yml").read_text())
    training["training"] |= {"steps": 6, "checkpoint_every": 2}
    (test / "parameters_training.yml").write_text(yaml.safe_dump(training))
    for concept, trigger in (("character", "zkc"), ("style", "qwo")):
        folder = write_tiny_pictures(tmp_path / "data" / "03_primary" / concept, 3)
        captions = folder / "metadata.jsonl"
        captions.write_text(captions.read_text().replace("zkc", trigger))
    return tmp_path


@pytest.fixture
def kedro(project, kedro_forks) -> Callable[..., tuple[int, str]]:
    """Exit status and output of a `kedro` command in a process of its own, in the project."""
    own = {"KEDRO_ENV": "test", "BLOCKWISE_LORA_CACHE": str(project / "cache")}
    own |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
    given = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "BLOCKWISE"))}

    def kedro(moment: str, number: int, *words: str) -> tuple[int, str]:
        return kedro_forks.run(project, given | own, *words, moment=moment, number=number)

    return kedro


def adapters(project: Path) -> dict[str, bytes]:
    files = (project / "data" / "06_models").rglob("*.safetensors")
    return {str(file.relative_to(project)): file.read_bytes() for file in sorted(files)}


@pytest.mark.parametrize(
    ("pipeline", "step", "save"),
    [
        # In the middle of the style's third step; then, with the character trained again, in the
        # middle of the style's second save.
        ("training", 9, 3),
        # In the middle of the third step; then of the second save, which has the character's half.
        ("training_in_one_pass", 5, 2),
    ],
)
def test_a_killed_run_ends_with_the_same_bits_and_one_record(project, kedro, pipeline, step, save):
    command = ("run", "--pipelines", pipeline)
    status, said = kedro("never", 0, *command, "--params", "tracking.enabled=false")
    assert status == 0, said
    whole = adapters(project)
    assert len(whole) == 4, "two concepts, two formats"
    shutil.rmtree(project / "data" / "06_models")

    status, said = kedro("step", step, *command)
    assert status == -signal.SIGKILL, said
    client = Tracker(project, EXPERIMENT, "").client
    (experiment,) = client.search_experiments(filter_string=f"name = '{EXPERIMENT}'")
    before = {run.info.run_id for run in client.search_runs([experiment.experiment_id])}
    assert len(before) == 2, "the variant and what was called"
    status, said = kedro("save", save, *command)
    assert status == -signal.SIGKILL, said
    status, said = kedro("never", 0, *command)
    assert status == 0, said
    assert "going on from the state saved at step 2" in " ".join(said.split())

    assert adapters(project) == whole
    assert list((project / "cache" / "checkpoints").iterdir()) == []
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_id for run in runs} == before, "they went on, none is new"
    assert {run.info.status for run in runs} == {"FINISHED"}
    (variant,) = [run for run in runs if run.data.tags["role"] == "variant"]
    for concept in ("character", "style"):
        curve = client.get_metric_history(variant.info.run_id, f"{concept}.loss")
        assert {point.step for point in curve} == set(range(1, 7))
        assert f"adapter.{concept}.sha256" in variant.data.tags
