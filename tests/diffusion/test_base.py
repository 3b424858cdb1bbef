import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from blockwise_lora.diffusion import loading
from blockwise_lora.diffusion.base import load_base, load_from_parameters
from blockwise_lora.diffusion.config import EfficiencyConfig
from blockwise_lora.diffusion.efficiency import efficient
from blockwise_lora.diffusion.sampling import SamplingConfig, make_scheduler
from blockwise_lora.diffusion.weights import BaseModelError
from blockwise_lora.parameters import ParameterError
from tiny_base import write_tiny_base


@pytest.fixture
def folder(tiny_base_folder, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(tiny_base_folder, tmp_path / "model")


def test_everything_is_read_from_the_model(base):
    assert (base.vae_factor, base.resolution, base.multiple) == (2, 16, 16)
    assert base.prediction_type == "epsilon"
    assert base.name == "tiny"
    frozen = [p for part in (base.unet, base.vae, base.text_encoder) for p in part.parameters()]
    assert not any(p.requires_grad for p in frozen)


def test_prediction_type_comes_from_the_schedule(tmp_path):
    folder = write_tiny_base(tmp_path / "v", prediction_type="v_prediction")
    assert load_base(folder).prediction_type == "v_prediction"


def test_latents_are_not_clipped_where_the_schedule_does_not_say_so(folder):
    """PNDM's configuration, SD 1's own, lacks the entry, and DDIM clips where it is lacking."""
    file = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text()) | {"_class_name": "PNDMScheduler"}
    del config["clip_sample"]
    file.write_text(json.dumps(config))
    base = load_base(folder)
    solver = make_scheduler(base, SamplingConfig(steps=1, scheduler="ddim"))
    far = torch.full((1, 4, 8, 8), 5.0)
    noise = torch.zeros_like(far)
    assert solver.step(noise, solver.timesteps[0], far).pred_original_sample.min() >= 5


def test_moments_are_the_vaes_in_the_unets_scale(base):
    pixels = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = base.encode_moments(pixels)
    wanted = base.vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, wanted.mean * 0.5)
    torch.testing.assert_close(std, wanted.std * 0.5)


def test_decoding_and_text_are_the_pipelines(base, tiny_base_folder):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base_folder)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    decoded = pipeline.vae.decode(latents / 0.5).sample
    wanted = pipeline.image_processor.postprocess(decoded.detach(), output_type="pt")
    torch.testing.assert_close(base.decode(latents), wanted)
    embeddings, _ = pipeline.encode_prompt(["zkc cat"], "cpu", 1, False)
    torch.testing.assert_close(base.encode_prompts(["zkc cat"]).tokens, embeddings)


def test_a_prompt_that_is_too_long_is_cut_off(base):
    long = "a " * 100
    assert base.encode_prompts([long]).tokens.shape == base.encode_prompts(["a"]).tokens.shape


def test_the_fingerprint_follows_the_weights_wherever_they_lie(folder, base):
    assert load_base(folder).sha256 == base.sha256
    shutil.move(folder, folder.with_name("renamed"))
    moved = load_base(folder.with_name("renamed"))
    assert moved.sha256 == base.sha256 and moved.name == "renamed"
    moved.unet.conv_in.bias.data += 1
    moved.unet.save_pretrained(folder.with_name("renamed") / "unet")
    assert load_base(folder.with_name("renamed")).sha256 != base.sha256


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}),
        ("text_encoder/config.json", {"num_hidden_layers": 1}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": 20}),
        ("vae/config.json", {"scaling_factor": 0.25}),
        ("unet/config.json", {"sample_size": 16}),
    ],
)
def test_the_fingerprint_follows_the_configurations(folder, base, file, change):
    """They decide what latents, embeddings and trainings are, and so which of them are found."""
    config = json.loads((folder / file).read_text())
    assert any(config[name] != value for name, value in change.items())
    (folder / file).write_text(json.dumps(config | change))
    assert load_base(folder).sha256 != base.sha256


def test_what_rounds_is_the_device_and_on_cuda_its_matrix_products(base):
    card = dataclasses.replace(base, device=torch.device("cuda"))
    for tf32, name in ((False, " cuda"), (True, " cuda tf32")):
        with efficient(base, [EfficiencyConfig(tf32=tf32)]):
            assert (base.arithmetic, card.arithmetic) == ("", name)


def test_precision_is_that_of_unet_and_text_encoder(folder):
    half = load_base(folder, dtype="bfloat16")
    assert half.unet.dtype == half.text_encoder.dtype == torch.bfloat16
    assert half.vae.dtype == torch.float32


def test_a_folder_with_a_variant_only(folder):
    for part in ("unet", "vae"):
        file = folder / part / "diffusion_pytorch_model.safetensors"
        file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    file = folder / "text_encoder" / "model.safetensors"
    file.rename(file.with_name("model.fp16.safetensors"))
    assert load_base(folder).resolution == 16


def test_parameters(tiny_base_folder):
    base = load_from_parameters({"source": str(tiny_base_folder), "dtype": "float32"}, "cpu")
    assert base.dtype == torch.float32
    with pytest.raises(ParameterError, match=r"base_model\.dtyp.*did you mean 'dtype'"):
        load_from_parameters({"source": "x", "dtyp": "float32"}, "cpu")


@pytest.mark.parametrize("source", ["no/such/folder", "./missing", "missing.safetensors", "../x/y"])
def test_a_source_that_is_not_there(source):
    with pytest.raises(BaseModelError, match="no folder or file"):
        load_base(source)


def test_a_hub_id_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match=r"'no-such-owner/no-such-model'.*local folder"):
        load_base("no-such-owner/no-such-model")


def test_a_hub_id_is_read_as_the_folder_that_the_hub_gave(monkeypatch, tiny_base_folder):
    monkeypatch.setattr(loading, "hub_snapshot", lambda source: tiny_base_folder)
    assert load_base("owner/name").name == "owner/name"


def test_a_truncated_file_is_named(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BaseModelError, match=r"unet.*diffusion_pytorch_model.*truncated"):
        load_base(folder)


def test_pickles_are_refused(folder):
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(BaseModelError, match=r"vae.*pickled.*safe_serialization"):
        load_base(folder)
    checkpoint = folder / "model.ckpt"
    checkpoint.write_bytes(b"\x80\x02")
    with pytest.raises(BaseModelError, match=r"model\.ckpt.*only \.safetensors"):
        load_base(checkpoint)


def test_missing_parts_are_named(folder):
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(BaseModelError, match=r"text_encoder/config\.json is missing"):
        load_base(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(BaseModelError, match="no model_index"):
        load_base(folder)


def test_weights_that_lack_a_tensor_are_not_filled_with_noise(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    del state["conv_out.bias"]
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"unet: the weights lack conv_out\.bias"):
        load_base(folder)


def test_other_pipelines_are_told_apart(folder):
    index = json.loads((folder / "model_index.json").read_text())
    del index["text_encoder"]  # as SDXL's refiner has none
    index |= {"_class_name": "StableDiffusionXLPipeline", "text_encoder_2": ["a", "b"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(BaseModelError, match="StableDiffusionXLPipeline"):
        load_base(folder)


def test_a_damaged_configuration_is_explained(folder):
    (folder / "unet" / "config.json").write_text("{}")
    with pytest.raises(BaseModelError, match="cannot be loaded as a Stable Diffusion model"):
        load_base(folder)


def test_a_device_that_is_not_there(tiny_base_folder):
    with pytest.raises(BaseModelError, match=r"device: 'warp:0'.*device=cpu"):
        load_base(tiny_base_folder, device="warp:0")


def test_few_pixels_are_decoded_at_once(base, monkeypatch):
    """The VAE's float32 activations of a whole batch would not fit beside a large model."""
    counts = []
    decode = base.vae.decode
    monkeypatch.setattr(base.vae, "decode", lambda x: (counts.append(len(x)), decode(x))[1])
    latents = torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = base.decode(latents)
    for budget, wanted in ((2 * 16**2, [2, 2, 1]), (1, [1] * 5)):
        counts.clear()
        monkeypatch.setattr("blockwise_lora.diffusion.base._DECODED_AT_ONCE", budget)
        # The picture's bytes; floats differ in their last bits as from one batch size to another.
        parts = base.decode(latents)
        assert counts == wanted
        assert torch.equal((parts * 255).round(), (whole * 255).round())
    counts.clear()
    monkeypatch.undo()
    monkeypatch.setattr(base.vae, "decode", lambda x: (counts.append(len(x)), decode(x))[1])
    base.decode(torch.zeros(8, 4, 32, 32))
    assert counts == [8], "eight of 64 px in one go"


def test_decoded_pictures_stay_in_range(base):
    latents = 100 * torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = base.decode(latents).numpy()
    assert np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1
