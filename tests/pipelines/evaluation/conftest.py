import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from kedro.io import DataCatalog
from PIL import Image, ImageDraw

from blockwise_lora.adapters import AdapterSpec, attach, detach, save_adapter
from blockwise_lora.diffusion.base import BaseModel, load_base
from blockwise_lora.diffusion.prompts import Concept, fill
from blockwise_lora.diffusion.samples import SampleRow, SampleSet
from blockwise_lora.imagesets import CaptionRule, CurationConfig, curate, write_imagefolder

CONF = Path(__file__).parents[3] / "conf" / "base"
PROMPTS = [
    {"text": "{style}, {character}, sad", "truth": "sad.png", "style_picture": "face.png"},
    {"text": "{style}, {character}, glad", "truth": "glad.png", "style_picture": None},
]
CHARACTER, STYLE = Concept("zkc", "cat face"), Concept("qwo", "style")
SEEDS = (0, 1)


def drawing(size: int, colour: str, outline: bool = False) -> Image.Image:
    picture = Image.new("RGB", (64, 64), "white")
    box = (32 - size, 32 - size, 32 + size, 32 + size)
    look = {"outline": colour, "width": 4} if outline else {"fill": colour}
    ImageDraw.Draw(picture).ellipse(box, **look)
    return picture


def sample_set(variant: str, conditions: Sequence[str], seeds: Sequence[int] = SEEDS) -> SampleSet:
    """Made-up samples of today's prompts."""
    rows = tuple(
        SampleRow(c, i, fill(prompt["text"], c, CHARACTER, STYLE), seed, variant)
        for c in conditions
        for i, prompt in enumerate(PROMPTS)
        for seed in seeds
    )
    shades = ("red", "orange", "green", "blue")
    return SampleSet(
        rows,
        tuple(
            drawing(10 + 3 * r.prompt_index + r.seed + len(variant), shades[len(r.condition) % 4])
            for r in rows
        ),
    )


@dataclass(frozen=True)
class Project:
    """A project's data folder after two variants were made, with its catalog and parameters."""

    data: Path
    catalog: DataCatalog
    parameters: dict[str, Any]


@pytest.fixture(scope="session")
def made(tmp_path_factory, tiny_base_folder) -> Path:
    """Raw pictures and results of two variants, made once and copied for each test."""
    root = tmp_path_factory.mktemp("made")
    raw, data = root / "raw", root / "data"
    _draw(raw)
    for concept in ("character", "style"):
        images, _ = curate(raw / concept, CaptionRule("x", "y"), CurationConfig(min_side=8))
        write_imagefolder(data / "03_primary" / concept, images)
    for variant in ("lora", "own"):
        folder = data / "07_model_output" / variant
        folder.mkdir(parents=True)
        sample_set(variant, ("character", "style", "both")).write(folder)
    _train(data, load_base(tiny_base_folder))
    return root


@pytest.fixture
def project(made, tmp_path, judge_folders, tiny_base_folder) -> Project:
    root = tmp_path / "project"
    shutil.copytree(made, root)
    parameters = _parameters(root / "raw", judge_folders, tiny_base_folder)
    return Project(root / "data", _catalog(root / "data", parameters), parameters)


def _draw(raw: Path) -> None:
    for name in ("character", "style", "truth"):
        (raw / name).mkdir(parents=True)
    for i in range(3):
        drawing(12 + 4 * i, "orange").save(raw / "character" / f"{i}.png")
        drawing(12 + 4 * i, "black", outline=True).save(raw / "style" / f"{i}.png")
    drawing(26, "black", outline=True).save(raw / "style" / "face.png")
    for i, name in enumerate(("sad", "glad")):
        drawing(18 + 3 * i, "brown", outline=True).save(raw / "truth" / f"{name}.png")


def _train(data: Path, base: BaseModel) -> None:
    """An untrained adapter and a loss curve for each concept of the variant `lora`."""
    for concept, blocks in (("character", "all"), ("style", "out2-out3")):
        spec = AdapterSpec(blocks=blocks, rank=2)
        attach(base.unet, spec, concept, torch.Generator().manual_seed(0))
        about = {"class_word": "cat face", "training": json.dumps({"steps": 3})}
        metadata = {f"blockwise_lora.{key}": value for key, value in about.items()}
        save_adapter(
            data / "06_models" / "lora" / concept, base.unet, concept, spec=spec, metadata=metadata
        )
        detach(base.unet, concept)
        curve = data / "08_reporting" / "lora" / f"{concept}_loss.csv"
        curve.parent.mkdir(parents=True, exist_ok=True)
        curve.write_text("step,loss,loss_smoothed\n1,0.5,0.5\n2,0.4,0.45\n3,0.3,0.4\n")


def _parameters(raw: Path, judges: dict[str, Path], base: Path) -> dict[str, Any]:
    evaluation = yaml.safe_load((CONF / "parameters_evaluation.yml").read_text())["evaluation"]
    evaluation["judges"] |= {name: str(folder) for name, folder in judges.items()}
    evaluation["bootstrap"]["draws"] = 50
    whole = {"method": "lora", "blocks": "all", "rank": 2}
    return {
        "character": {
            "pictures": str(raw / "character"),
            "trigger": "zkc",
            "class_word": "cat face",
        },
        "style": {"pictures": str(raw / "style"), "trigger": "qwo", "class_word": "style"},
        "truth": str(raw / "truth"),
        "prompts": PROMPTS,
        "compare": ["lora", "locon", "own"],
        "variant": "lora",
        "variants": {"lora": {"character": whole, "style": whole}},
        "combination": {"pictures_per_prompt": len(SEEDS), "sampling": {"steps": 1}},
        "evaluation": evaluation,
        "base_model": {"source": str(base)},
        "device": "cpu",
        "seed": 0,
    }


def _catalog(data: Path, parameters: dict[str, Any]) -> DataCatalog:
    """The project's own catalog over another data folder."""
    text = "\n".join((CONF / f"catalog_{n}.yml").read_text() for n in ("curation", "evaluation"))
    catalog = DataCatalog.from_config(
        yaml.safe_load(text.replace("${globals:outputs}", data.as_posix()))
    )
    for name, value in parameters.items():
        catalog[f"params:{name}"] = value
    return catalog
