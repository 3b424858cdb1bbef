"""The whole default job, as a newcomer runs it, in the environment `test` (few steps, one prompt).

It runs in a copy of the project, so that no result of the user's is touched: `dvc repro` first, as
`make run` does, then what the README says one can do with the outcome, in forked processes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import nbformat
import pytest
import yaml
from nbclient import NotebookClient
from PIL import Image

from blockwise_lora.adapters import read_adapter
from blockwise_lora.pipelines.training.recipes import resolve
from blockwise_lora.tracking import Tracker
from kedro_forks import KedroForks

ROOT = Path(__file__).parents[1]
COPIED = ("conf", "data/01_raw", "data/06_models/base", "data/06_models/judges", "notebooks", "src")
FILES = ("pyproject.toml", "dvc.yaml", ".dvcignore", ".telemetry")
VARIANTS = ("lora", "blockwise")  # LoCon would be the same once more
INVOCATION = "make run, tested"


def variables() -> dict[str, str]:
    """All variables of a command's environment."""
    binaries = Path(sys.executable).parent
    own = {
        "BLOCKWISE_LORA_INVOCATION": INVOCATION,
        "HF_HUB_OFFLINE": "1",
        "KEDRO_ENV": "test",
        "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
    }
    return {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"} | own


def run(project: Path, *command: str, programs: Path | None = None) -> str:
    """Run a command of the environment in the project; returns all that it printed.

    Args:
        project: where.
        command: such as "dvc", "repro".
        programs: a folder of programs that it finds first.
    """
    own = variables()
    if programs:
        own["PATH"] = f"{programs}{os.pathsep}{own['PATH']}"
    done = subprocess.run(
        command,
        cwd=project,
        env=own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def kedro(project, kedro_forks) -> Callable[..., str]:
    """Run a `kedro` command in the project; returns all that it printed."""

    def kedro(*words: str, succeeds: bool = True) -> str:
        status, said = kedro_forks.run(project, variables(), *words)
        assert (status == 0) is succeeds, said
        return said

    return kedro


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, kedro_forks: KedroForks) -> Path:
    """A copy of the project in which the default job has run."""
    copy = tmp_path_factory.mktemp("clone") / "project"
    leave = shutil.ignore_patterns("__pycache__", "*.egg-info", ".gitignore")
    for name in COPIED:
        shutil.copytree(ROOT / name, copy / name, ignore=leave)
    for name in FILES:
        shutil.copy(ROOT / name, copy / name)
    # The environment has a place of its own for results; here the copy is that place.
    (copy / "conf" / "test" / "globals.yml").write_text("outputs: data\n")
    variants = copy / "conf" / "base" / "parameters_variants.yml"
    text = variants.read_text()
    variants.write_text(text.replace("[lora, locon, blockwise]", "[lora, blockwise]"))
    run(copy, "dvc", "init", "--no-scm", "--quiet")
    run(copy, "dvc", "repro", "evaluate", programs=kedro_forks.programs)
    return copy


@pytest.fixture(scope="module")
def record(project: Path) -> Tracker:
    return Tracker(project, "blockwise-lora-test", INVOCATION)


def test_it_ends_in_grid_table_and_report(project):
    reporting = project / "data" / "08_reporting"
    with Image.open(reporting / "grid.png") as grid:
        assert min(grid.size) > 64
        grid.load()
    scores = json.loads((reporting / "evaluation.json").read_text())
    assert json.dumps(scores)
    assert len((reporting / "evaluation.csv").read_text().splitlines()) > len(VARIANTS)
    page = (reporting / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64" in page
    assert not any(f'{mark}="http' in page for mark in ("src", "link href"))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("concept", ["character", "style"])
def test_every_variant_has_its_adapters(project, variant, concept):
    folder = project / "data" / "06_models" / variant / concept
    defined = yaml.safe_load((ROOT / "conf/base/parameters_variants.yml").read_text())
    spec = read_adapter(folder).spec
    assert spec.blocks == defined["variants"][variant][concept]["blocks"]
    assert spec.method == defined["variants"][variant][concept]["method"]
    assert (folder / "adapter.safetensors").exists()


def test_the_record_has_one_run_a_variant_under_one_parent(record):
    (experiment,) = record.client.search_experiments(filter_string="name LIKE '%-test'")
    runs = record.client.search_runs([experiment.experiment_id], "tags.role = 'variant'")
    runs = [r for r in runs if r.data.tags["mlflow.parentRunId"] == record.parent]
    assert sorted(r.data.tags["variant"] for r in runs) == sorted(VARIANTS)
    for r in runs:
        assert r.info.status == "FINISHED"
        for concept in ("character", "style"):
            assert {f"mask.{concept}", f"adapter.{concept}.sha256"} <= set(r.data.tags)
            assert record.client.get_metric_history(r.info.run_id, f"{concept}.loss")
            files = record.client.list_artifacts(r.info.run_id, f"adapters/{concept}")
            assert any(f.path.endswith("adapter.safetensors") for f in files)
        expected = {"base_model.sha256", "data.character.sha256", "version.torch"}
        assert expected <= set(r.data.tags)
        assert r.data.params["seed"] == "0"
        assert len(r.data.metrics) > 4, "the scores are there as well"
        folders = {a.path for a in record.client.list_artifacts(r.info.run_id)}
        assert {"adapters", "comparison", "samples"} <= folders


def test_a_second_run_does_nothing(project):
    said = run(project, "dvc", "repro", "evaluate")
    assert "Running stage" not in said
    assert "up to date" in said


def test_dvc_shows_metrics_and_plots(project):
    assert "evaluation.json" in run(project, "dvc", "metrics", "show")
    page = run(project, "dvc", "plots", "show").strip().splitlines()[-1]
    assert "index.html" in page
    assert (project / "dvc_plots" / "index.html").exists()


def test_one_run_of_ones_own_variant(project, kedro, record):
    kedro("run", "--params", "variant=own,character.blocks=out1-out3")
    adapter = read_adapter(project / "data" / "06_models" / "own" / "character")
    assert adapter.spec.blocks == "out1-out3"
    tags = {"mask.character": "out1-out3", "adapter.character.sha256": adapter.sha256}
    assert record.find("own", tags, here=True)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("character.blocks=out9", "out9"),
        ("character.blok=out1", "did you mean 'blocks'"),
        ("charakter.blocks=out1", "did you mean 'character'"),
        ("variant=nix", "not among lora"),
    ],
)
def test_mistakes_are_told_in_plain_words(kedro, params, message):
    said = kedro("run", "--pipelines", "training", "--params", params, succeeds=False)
    assert message in said
    assert "Error: " in said
    assert "Traceback" not in said


def test_the_notebook_runs(project, monkeypatch):
    monkeypatch.setenv("KEDRO_ENV", "test")
    notebook = nbformat.read(project / "notebooks" / "block_strengths.ipynb", as_version=4)
    settings = notebook.cells[1]
    for whole, small in (("STEPS = 20", "STEPS = 1"), ("SEEDS = (0, 1)", "SEEDS = (0,)")):
        assert whole in settings.source
        settings.source = settings.source.replace(whole, small)
    resources = {"metadata": {"path": str(project / "notebooks")}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= 5


def sweep_runs(record: Tracker) -> dict[str, object]:
    """Runs of the sweep's masks by name."""
    (experiment,) = record.client.search_experiments(filter_string="name LIKE '%-test'")
    runs = record.client.search_runs([experiment.experiment_id], "tags.study LIKE '%'")
    return {r.info.run_name: r for r in runs if "sweep.key" in r.data.tags}


def test_a_sweep_says_which_blocks_and_records_every_mask(project, kedro, record):
    kedro("run", "--pipelines", "sweep")
    folder = project / "data" / "08_reporting" / "sweep"
    scores = json.loads((folder / "scores.json").read_text())
    assert [p["how"] for p in scores["pairs"]].count("trained") == 3
    page = unescape((folder / "report.html").read_text(encoding="utf-8"))
    assert "Train the character on" in page
    recommended = yaml.safe_load(re.search("<pre>(variants:.*?)</pre>", page, re.DOTALL)[1])
    for concept in ("character", "style"):
        words = {"trigger": "zkc", "class_word": "cat"}
        recipe = resolve(
            concept, concept=words, variant="recommended", training={}, seed=0, **recommended
        )
        assert recipe.spec.blocks == scores["best"][concept]
        assert (recipe.spec.method, recipe.spec.rank) == ("lora", 8)
    assert {"pareto.png", "skipped.svg"} <= {p.name for p in (folder / "figures").iterdir()}
    runs = sweep_runs(record)
    assert set(runs) == {"character: all; style: all", "character: all+mid:0", "style: out3"}
    mask = runs["style: out3"]
    assert mask.data.tags["mask.style"] == "out3"
    assert mask.data.tags["mlflow.parentRunId"] == record.parent
    assert mask.data.params["style.rank_of.out3"] == "8"
    assert mask.data.params["style.rank_of.mid"] == "0"
    assert {"style.loss", "identity", "effect.style"} <= set(mask.data.metrics)
    artifacts = {a.path for a in record.client.list_artifacts(mask.info.run_id)}
    assert {"adapters", "samples.png"} <= artifacts


def test_adding_a_mask_to_a_sweep_trains_one_mask(project, kedro, record):
    bank = project / "data" / "06_models" / "sweep"
    before = {p: p.stat().st_mtime_ns for p in bank.glob("*/*/*.safetensors")}
    parameters = project / "conf" / "test" / "parameters_sweep.yml"
    text = parameters.read_text()
    parameters.write_text(
        text.replace(
            "    - {character: all, style: out3}\n",
            "    - {character: all, style: out3}\n    - {style: mid}\n",
        )
    )
    kedro("run", "--pipelines", "sweep")
    after = {p: p.stat().st_mtime_ns for p in bank.glob("*/*/*.safetensors")}
    assert {p: t for p, t in after.items() if p in before} == before
    assert len({p.parent for p in set(after) - set(before)}) == 1
    assert len(sweep_runs(record)) == 4, "no mask has two runs"


def test_a_search_ends_with_a_pair_that_can_be_run(project, kedro):
    kedro("run", "--pipelines", "search")
    folder = project / "data" / "08_reporting" / "search"
    told = json.loads((folder / "scores.json").read_text())
    assert {"character", "style"} == set(told["recommended"])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert f"character.blocks={told['recommended']['character']}" in page


def test_an_adapter_trained_by_hand_outlives_the_next_run(project, kedro, kedro_forks):
    kedro("run", "--pipelines", "training", "--params", "variant=lora,character.rank=2")
    made = (project / "data/06_models/lora/character/adapter.safetensors").read_bytes()
    run(project, "dvc", "repro", "train@lora", programs=kedro_forks.programs)
    assert read_adapter(project / "data/06_models/lora/character").spec.rank == 8
    kept = (project / "data/06_models/.archive").glob("lora-character-*/adapter.safetensors")
    assert made in [file.read_bytes() for file in kept]
