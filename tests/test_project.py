"""What ties the repository's files together and would break without a word."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from blockwise_lora.blocks import BlockMap, Mask

ROOT = Path(__file__).parents[1]


def conf(name: str) -> dict:
    return yaml.safe_load((ROOT / "conf" / "base" / name).read_text(encoding="utf-8"))


def masks_in_the_readme() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("| mask | trains |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    masks = [mask for cell in cells for mask in re.findall(r"`([^`]+)`", cell)]
    return masks + re.findall(r"blocks=([A-Za-z0-9:+-]+)", text)


def test_masks_of_readme_and_configuration_mean_something(tiny_unet):
    blocks = BlockMap.of(tiny_unet)
    configured = [
        spec.get("blocks", "all")
        for variant in conf("parameters_variants.yml")["variants"].values()
        for spec in variant.values()
    ]
    masks = masks_in_the_readme() + configured
    assert len(masks) > 10
    for mask in masks:
        assert any(Mask.parse(mask).ranks(blocks, 8).values()), mask


def test_dvc_s_matrix_is_the_list_of_variants():
    dvc = [sys.executable, "-m", "dvc"]
    done = subprocess.run([*dvc, "stage", "list"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    stages = {line.split()[0] for line in done.stdout.splitlines()}
    compare = conf("parameters_variants.yml")["compare"]
    assert stages == {"base", "curate", "evaluate", "sweep"} | {
        f"{stage}@{variant}" for stage in ("train", "combine") for variant in compare
    }


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "conf/base").glob("param*.yml")))
def test_parameters_that_dvc_sets_hold_no_interpolation(name):
    text = (ROOT / "conf" / "base" / name).read_text(encoding="utf-8")
    if name in (ROOT / "dvc.yaml").read_text(encoding="utf-8"):
        assert "${" not in text


def test_the_lock_pins_every_dependency_and_names_no_index():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lock.splitlines()}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = re.findall(r'"([A-Za-z0-9_-]+)>=', project.split("[project.scripts]")[0])
    assert {name.lower().replace("_", "-") for name in wanted} - {"setuptools"} <= pinned
    assert not re.search(r"^-|://|^(nvidia|cuda|triton)", lock, flags=re.MULTILINE)


def test_telemetry_is_off():
    assert yaml.safe_load((ROOT / ".telemetry").read_text()) == {"consent": False}
    assert "analytics = false" in (ROOT / ".dvc" / "config").read_text()


def test_notebooks_are_committed_without_outputs():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert all(not cell.get("outputs") for cell in cells), path
