"""What the repository ships is what it says: plain diffusers, open_clip and timm load it."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from blockwise_lora.blocks import BlockMap
from blockwise_lora.judges.clip import load_clip
from blockwise_lora.judges.dino import load_dino

MODELS = Path(__file__).parents[2] / "data" / "06_models"
# SD 1.5's own unet/config.json and scheduler_config.json.
SD15_UNET = {
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "layers_per_block": 2,
    "in_channels": 4,
    "out_channels": 4,
    "act_fn": "silu",
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "center_input_sample": False,
}
SD15_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
}


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(MODELS / "base", safety_checker=None)


def test_plain_diffusers_draws_with_it(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline(
        "noto style, grinning face",
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    assert picture.size == (64, 64)
    assert len(set(picture.getdata())) > 50, "not one flat colour"


def test_its_structure_is_sd_15s(pipeline):
    config = json.loads((MODELS / "base" / "unet" / "config.json").read_text())
    assert {key: config[key] for key in SD15_UNET} == SD15_UNET
    schedule = json.loads((MODELS / "base" / "scheduler" / "scheduler_config.json").read_text())
    assert {key: schedule[key] for key in SD15_SCHEDULER} == SD15_SCHEDULER


def test_its_layers_have_the_names_of_sd_15s(pipeline):
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        full = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=768,
            attention_head_dim=8,
            block_out_channels=(320, 640, 1280, 1280),
        )
    ours, theirs = BlockMap.of(pipeline.unet), BlockMap.of(full)
    assert ours.names == theirs.names
    # Widths differ, so some resnets gain or lose a shortcut: none here.
    assert ours.modules("attention") == theirs.modules("attention")
    shared = set(dict(ours.layers)) ^ set(dict(theirs.layers))
    assert not {name for name in shared if "conv_shortcut" not in name}


def test_the_text_is_read_no_further_than_the_encoder_can(pipeline):
    assert pipeline.tokenizer.model_max_length == 32
    assert pipeline.text_encoder.config.max_position_embeddings == 32


def test_judges_load_and_tell_pictures_apart():
    raw = MODELS.parent / "01_raw" / "characters" / "cat"
    pictures = [Image.open(path) for path in sorted(raw.glob("*.png"))[:3]]
    for judge in (load_clip(MODELS / "judges" / "clip"), load_dino(MODELS / "judges" / "dino")):
        vectors = judge.images(pictures)
        cosines = vectors @ vectors.T
        assert cosines[0, 0] == pytest.approx(1, abs=1e-4)
        assert cosines[0, 1] < 0.999


def test_weights_are_safetensors_in_half_precision_and_small():
    files = [p for p in MODELS.rglob("*") if p.is_file() and ".archive" not in p.parts]
    shipped = [
        p for p in files if p.is_relative_to(MODELS / "base") or p.is_relative_to(MODELS / "judges")
    ]
    assert not [p.name for p in shipped if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]
    weights = [p for p in shipped if p.suffix == ".safetensors"]
    assert len(weights) == 5
    assert sum(p.stat().st_size for p in weights) <= 60_000_000
    for path in weights:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        types = {v["dtype"] for k, v in header.items() if k != "__metadata__"}
        assert types <= {"F16", "I64"}, path
        assert path.stat().st_mode & 0o044, "others may read it"


def test_the_card_names_every_licence_and_has_its_figures():
    card = (MODELS / "base" / "README.md").read_text()
    for licence in ("Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT"):
        assert licence in card
    figures = json.loads((MODELS / "base" / "figures.json").read_text())["figures"]
    assert set(figures) == {"vae_psnr_db", "retrieval_percent", "judges_percent", "triples_percent"}
