"""The whole path on a shrunken SDXL: two text encoders, a pooled vector, sizes."""

import json

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from blockwise_lora.adapters import AdapterSpec, load_adapter, read_adapter, set_strengths
from blockwise_lora.adapters.files import save_adapter
from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.batches import Batch
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import AugmentConfig, PriorConfig, TrainingConfig
from blockwise_lora.diffusion.sampling import SamplingConfig, sample
from blockwise_lora.diffusion.trainer import Job, train_many
from blockwise_lora.diffusion.weights import BaseModelError
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_pictures, write_tiny_sdxl


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_sdxl(tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture
def xl(folder):
    return load_base(folder)


@pytest.fixture(scope="module")
def pipeline(folder):
    return StableDiffusionXLPipeline.from_pretrained(folder)


def test_prompts_are_what_diffusers_makes_of_them(xl, pipeline):
    text = xl.encode_prompts(["zkc cat", "dog"])
    tokens, _, pooled, _ = pipeline.encode_prompt(
        ["zkc cat", "dog"], device="cpu", do_classifier_free_guidance=False
    )
    torch.testing.assert_close(text.tokens, tokens)
    torch.testing.assert_close(text.pooled, pooled)
    assert (xl.multiple, xl.resolution, len(xl.text_encoders)) == (8, 16, 2)


def test_pictures_are_those_of_diffusers(xl, pipeline):
    config = SamplingConfig(steps=3, guidance_scale=3.0, scheduler="ddim")
    (ours,) = sample(xl, ["zkc cat"], [5], config)
    from diffusers import DDIMScheduler

    pipeline.scheduler = DDIMScheduler.from_config(xl.scheduler.config)
    theirs = pipeline(
        "zkc cat",
        negative_prompt="",
        num_inference_steps=3,
        guidance_scale=3.0,
        height=16,
        width=16,
        latents=torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(5)),
    ).images[0]
    difference = torch.tensor(list(ours.tobytes())) - torch.tensor(list(theirs.tobytes()))
    assert difference.abs().max() <= 1


def test_train_save_load_sample(xl, folder, images, tmp_path):
    """Two adapters in one pass, the second one with what it keeps of the class."""
    config = TrainingConfig(steps=2, batch_size=2, learning_rate=1e-2, trigger="zkc")
    kept = TrainingConfig(
        steps=2, batch_size=2, learning_rate=1e-2, trigger="zkc", prior=PriorConfig("distil")
    )
    specs = [AdapterSpec("out0-out1", "lora", 2), AdapterSpec("in2-out2", "locon", 2)]
    jobs = [Job("a", images, specs[0], config), Job("b", images, specs[1], kept)]
    train_many(xl, jobs, cache_dir=tmp_path / "cache")
    wanted = {}
    sampling = SamplingConfig(steps=2)
    for name, spec in zip("ab", specs, strict=True):
        set_strengths(xl.unet, {name: 1.0})
        wanted[name] = sample(xl, ["zkc square"], [1], sampling)[0].tobytes()
        save_adapter(tmp_path / name, xl.unet, name, spec=spec)
    other = load_base(folder)
    plain = sample(other, ["zkc square"], [1], sampling)[0].tobytes()
    for name in "ab":
        load_adapter(other.unet, read_adapter(tmp_path / name), name)
        set_strengths(other.unet, {name: 1.0})
        assert sample(other, ["zkc square"], [1], sampling)[0].tobytes() == wanted[name] != plain
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(tmp_path / "a")


def test_sizes_and_crops_reach_the_unet(xl, tmp_path):
    pictures = write_tiny_pictures(tmp_path / "set", 4)
    Image.new("RGB", (16, 32), "red").save(pictures / "1.png")
    config = TrainingConfig(batch_size=2, augment=AugmentConfig(variants=2, crop=0.6))
    cached = CachedSet.of(xl, read_imagefolder(pictures), config)
    frames = torch.cat([Batch.of(xl, cached, config, turn).frames for turn in range(12)])
    assert {tuple(row[:2]) for row in frames.int().tolist()} == {(16, 16), (32, 16)}
    assert frames[:, 2:4].max() > 0
    batch = Batch.of(xl, cached, config, 0)
    moved = batch.frames + torch.tensor([0.0, 0, 64, 0, 0, 0])
    answers = [
        xl.answer(batch.noisy, batch.timesteps, batch.text, frames)
        for frames in (batch.frames, moved)
    ]
    assert not torch.allclose(*answers), "the time ids are read"


def test_embeddings_are_kept_with_their_pooled_vectors(xl, images, tmp_path):
    first = CachedSet.of(xl, images, folder=tmp_path)
    again = CachedSet.of(xl, images, folder=tmp_path)
    assert torch.equal(first.text.pooled, again.text.pooled)
    assert first.text.pooled.shape == (6, 12)


def test_a_missing_second_encoder_is_named(folder, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="text_encoder_2"):
        load_base(broken)
    assert "text_encoder_2" in json.loads((broken / "model_index.json").read_text())
