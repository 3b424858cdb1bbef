import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.single_file import (
    clip_tokenizer,
    load_single_file,
    write_sd1_configuration,
)
from blockwise_lora.diffusion.weights import BaseModelError
from ldm_format import to_ldm


@pytest.fixture
def single_file(loaded_tiny_base, tmp_path):
    base = loaded_tiny_base
    state = to_ldm(base.unet, base.vae, base.text_encoder)
    save_file(state, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def test_a_single_file_is_the_same_model(single_file, tiny_base_folder, loaded_tiny_base):
    loaded = load_base(single_file, config=tiny_base_folder)
    for part in ("unet", "vae", "text_encoder"):
        wanted = getattr(loaded_tiny_base, part).state_dict()
        got = getattr(loaded, part).state_dict()
        assert got.keys() == wanted.keys()
        assert all(torch.equal(got[key], wanted[key]) for key in wanted), part
    assert loaded.name == "tiny"
    words = ["zkc cat"]
    wanted = loaded_tiny_base.encode_prompts(words).tokens
    torch.testing.assert_close(loaded.encode_prompts(words).tokens, wanted)
    assert loaded.scheduler.config.beta_schedule == "scaled_linear"


def test_a_configuration_that_is_named_counts_in_the_fingerprint(
    single_file, tiny_base_folder, tmp_path
):
    other = shutil.copytree(tiny_base_folder, tmp_path / "other")
    first = load_base(single_file, config=tiny_base_folder)
    assert load_base(single_file, config=other).sha256 == first.sha256
    file = other / "scheduler" / "scheduler_config.json"
    file.write_text(file.read_text().replace("epsilon", "v_prediction"))
    second = load_base(single_file, config=other)
    assert (first.prediction_type, second.prediction_type) == ("epsilon", "v_prediction")
    assert first.sha256 != second.sha256


def test_the_built_in_configuration_is_stable_diffusion_1(tmp_path):
    """Parameter counts as published for SD 1.x; no weights are made."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    write_sd1_configuration(tmp_path)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(
            UNet2DConditionModel.load_config(tmp_path, subfolder="unet")
        )
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(tmp_path, subfolder="vae"))
        text = CLIPTextModel(CLIPTextConfig.from_pretrained(tmp_path, subfolder="text_encoder"))
    counts = [sum(p.numel() for p in model.parameters()) for model in (unet, vae, text)]
    assert counts == [859_520_964, 83_653_863, 123_060_480]
    assert DDPMScheduler.from_pretrained(tmp_path, subfolder="scheduler").alphas_cumprod[
        -1
    ].item() == pytest.approx(0.00466, abs=1e-5)


def test_the_tokenizer_is_clips():
    import open_clip

    text = "a photo of an astronaut riding a horse, 4k!!"
    ours = clip_tokenizer()(text, padding="max_length").input_ids
    theirs = open_clip.tokenizer.tokenize([text])[0].tolist()
    end = ours.index(49407)
    assert ours[: end + 1] == theirs[: end + 1]
    assert len(ours) == 77 and set(ours[end:]) == {49407}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_down.alpha"], "holds no U-Net"),
        (["conditioner.embedders.0.x", "model.diffusion_model.x"], "Stable Diffusion XL"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "not a Stable Diffusion 1.x model"),
    ],
)
def test_other_families_are_told_apart(tmp_path, names, message):
    file = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(2) for name in names}, file)
    with pytest.raises(BaseModelError, match=message):
        load_base(file)


def test_a_wrong_configuration_is_explained(single_file, tiny_base_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_base_folder, other)
    config = json.loads((other / "unet" / "config.json").read_text())
    (other / "unet" / "config.json").write_text(
        json.dumps(config | {"block_out_channels": [16, 16, 32, 64]})
    )
    with pytest.raises(BaseModelError, match=r"tiny\.safetensors: cannot be loaded"):
        load_base(single_file, config=other)


def test_parts_that_are_missing_are_explained(single_file, tiny_base_folder):
    state = load_file(single_file)
    kept = {key: value for key, value in state.items() if not key.startswith("first_stage")}
    save_file(kept, single_file)
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_base(single_file, config=tiny_base_folder)


def test_load_single_file_gives_all_parts(single_file, tiny_base_folder):
    parts = load_single_file(single_file, torch.float32, tiny_base_folder)
    assert set(parts) == {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}
