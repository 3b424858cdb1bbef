"""A mask means the same from every side: YAML, `kedro run --params`, `dvc exp run -S`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from blockwise_lora.adapters import read_adapter
from tiny_base import write_tiny_pictures

ROOT = Path(__file__).parents[1]
VARIANTS = Path("conf/base/parameters_variants.yml")
INS = "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0"


def run(project: Path, *command: str, succeeds: bool = True) -> str:
    """Run a command in the project; returns all that it printed."""
    own = {
        "KEDRO_ENV": "test",
        "DVC_NO_ANALYTICS": "1",
        "BLOCKWISE_LORA_CACHE": str(project / "cache"),
    }
    own |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    own |= {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@localhost"}
    own |= {"GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@localhost"}
    done = subprocess.run(
        command,
        cwd=project,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert (done.returncode == 0) is succeeds, done.stdout
    return " ".join(done.stdout.split())  # Kedro breaks lines as the terminal is wide


@pytest.fixture(scope="module")
def project(tmp_path_factory, tiny_base_folder) -> Path:
    """The project's configuration with tiny pictures and a tiny model."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "conf", folder / "conf")
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "conf/test/globals.yml").write_text("outputs: data\n")
    local = {"base_model": {"source": str(tiny_base_folder)}, "tracking": {"enabled": False}}
    (folder / "conf/test/parameters.yml").write_text(yaml.safe_dump(local))
    for concept, trigger in (("character", "zkc"), ("style", "qwo")):
        captions = write_tiny_pictures(folder / "data/03_primary" / concept, 3) / "metadata.jsonl"
        captions.write_text(captions.read_text().replace("zkc", trigger))
    variants = yaml.safe_load((folder / VARIANTS).read_text())
    variants["variants"]["own"]["character"] |= {"blocks": INS.replace("1", "0", 1), "rank": 2}
    (folder / VARIANTS).write_text(yaml.safe_dump(variants))
    return folder


def mask(project: Path, variant: str, concept: str) -> str:
    return str(read_adapter(project / "data/06_models" / variant / concept).spec.mask)


def test_a_list_in_yaml_and_not_on_the_command_line(project):
    run(
        project,
        *("blockwise-lora", "run", "--pipelines", "training", "--params"),
        "variant=own,training.steps=2,style.rank=2,style.blocks=NOT in0-out2",
    )
    assert mask(project, "own", "character") == "sd+IN01-IN02+IN04"
    assert mask(project, "own", "style") == "all+in0-out2:0"


def test_a_mistake_on_the_command_line_is_told_before_anything_runs(project):
    command = ("kedro", "run", "--params", "variant=lora,character.blocks=1 1 0")
    printed = run(project, *command, succeeds=False)
    assert "character: a list of 3 numbers is no list of blocks. Lengths in use: 12 (" in printed
    assert "Traceback" not in printed
    assert not (project / "data/02_intermediate").exists()


RESOLVED = """
import json, pathlib, yaml
from blockwise_lora.pipelines.training.recipes import resolve
variants = yaml.safe_load(pathlib.Path("conf/base/parameters_variants.yml").read_text())["variants"]
words = {"trigger": "zkc", "class_word": "cat"}
masks = [
    str(resolve(c, concept=words, variant=v, variants=variants, training={}, seed=0).spec.mask)
    for v, c in (("lora", "character"), ("lora", "style"), ("own", "style"))
]
pathlib.Path("masks.json").write_text(json.dumps(masks))
"""


def test_a_dvc_experiment(project):
    """A stage that reads the parameters file as a run does, and says what it understood."""
    (project / "resolved.py").write_text(RESOLVED)
    stage = {"cmd": f"{sys.executable} resolved.py", "outs": ["masks.json"]}
    stage["params"] = [{str(VARIANTS): ["variants"]}]
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"resolve": stage}}))
    (project / ".gitignore").write_text("/data\n/cache\n/src\n")
    for command in ("git init -q", "dvc init -q", "git add .", "git commit -q -m x"):
        run(project, *command.split())
    changes = {
        "lora.character": "in2-mid+OUT1:16",
        "lora.style": "'NOT IN09-OUT02'",
        "own.style": f"'{INS}'",
    }
    options = [f"{VARIANTS}:variants.{name}.blocks={mask}" for name, mask in changes.items()]
    run(project, "dvc", "exp", "run", *(word for option in options for word in ("-S", option)))
    assert json.loads((project / "masks.json").read_text()) == [
        "in2-mid+out1:16",
        "all+IN09-OUT02:0",
        "sd+IN01-IN02+IN04+base",
    ]
