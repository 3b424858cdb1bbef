import dataclasses

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)

from blockwise_lora.adapters import (
    AdapterSpec,
    attach,
    set_strengths,
    trainable_parameters,
)
from blockwise_lora.diffusion.base import BaseModel, load_base
from blockwise_lora.diffusion.sampling import (
    SamplingConfig,
    SamplingError,
    batch_for,
    initial_noise,
    sample,
)
from tiny_base import write_tiny_base

CONFIG = SamplingConfig(steps=3, guidance_scale=3.0, batch_size=2)


def arrays(pictures):
    return [np.asarray(p).astype(int) for p in pictures]


def largest_difference(first, second):
    pairs = zip(arrays(first), arrays(second), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


@pytest.mark.parametrize(
    ("name", "solver", "options"),
    [
        ("ddim", DDIMScheduler, {}),
        ("euler", EulerDiscreteScheduler, {}),
        ("dpm++2m", DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    ],
)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_pictures_are_those_of_the_diffusers_pipeline(
    base, tiny_base_folder, name, solver, options, guidance
):
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_base_folder)
    pipeline.scheduler = solver.from_config(pipeline.scheduler.config, **options)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.stack([initial_noise(seed, (4, 8, 8)) for seed in (5, 6)])
    wanted = pipeline(
        ["zkc cat", "a dog"],
        negative_prompt=["grey"] * 2,
        latents=noise,
        num_inference_steps=4,
        guidance_scale=guidance,
    ).images
    config = SamplingConfig(4, guidance, name, negative_prompt="grey")
    got = sample(base, ["zkc cat", "a dog"], [5, 6], config)
    assert largest_difference(got, wanted) <= 1


def test_v_prediction_and_zero_terminal_snr_are_followed(tmp_path):
    options = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    folder = write_tiny_base(tmp_path / "v", timestep_spacing="trailing", **options)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(5, (4, 8, 8))[None]
    wanted = pipeline("cat", latents=noise, num_inference_steps=4, guidance_scale=3.0).images
    base = load_base(folder)
    got = sample(base, ["cat"], [5], SamplingConfig(4, 3.0, "ddim"))
    assert largest_difference(got, wanted) <= 1
    for solver in ("dpm++2m", "euler"):
        (picture,) = sample(base, ["cat"], [5], SamplingConfig(4, 3.0, solver))
        assert np.asarray(picture).std() > 0


def test_a_picture_does_not_depend_on_its_batch(base):
    prompts, seeds = ["a", "b", "c", "a", "b"], [0, 1, 2, 3, 0]
    together = sample(base, prompts, seeds, CONFIG)
    torch.manual_seed(3)
    for i in (0, 2, 4):
        alone = sample(base, [prompts[i]], [seeds[i]], CONFIG)
        assert largest_difference(alone, [together[i]]) <= 1
    at_once = sample(base, prompts, seeds, dataclasses.replace(CONFIG, batch_size=5))
    assert largest_difference(at_once, together) <= 1


def test_one_prompt_one_seed_one_picture(base):
    first, again, other_seed, other_prompt = sample(
        base, ["a", "a", "a", "b"], [0, 0, 1, 0], CONFIG
    )
    assert largest_difference([first], [again]) == 0
    assert largest_difference([first], [other_seed]) > 5
    assert largest_difference([first], [other_prompt]) > 0


def test_adapters_act(base):
    plain = sample(base, ["a"], [0], CONFIG)
    attach(base.unet, AdapterSpec(), "style", torch.Generator().manual_seed(0))
    untrained = sample(base, ["a"], [0], CONFIG)
    assert largest_difference(plain, untrained) == 0
    with torch.no_grad():
        for parameter in trainable_parameters(base.unet, "style")[1::2]:
            parameter.fill_(0.1)
    assert largest_difference(plain, sample(base, ["a"], [0], CONFIG)) > 5


def test_what_acts_can_change_from_step_to_step(base):
    """On in the first of three steps only: neither the picture with it nor that without."""
    calls = []

    def run(strengths):
        def before_step(step, steps):
            calls.append((step, steps))
            set_strengths(base.unet, {"strong": strengths[step]})

        return sample(base, ["a"] * 3, [1, 2, 3], CONFIG, before_step=before_step)

    off = sample(base, ["a"] * 3, [1, 2, 3], CONFIG)
    attach(base.unet, AdapterSpec("all", rank=2), "strong", torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in trainable_parameters(base.unet, "strong"):
            parameter.fill_(0.3)
    on = sample(base, ["a"] * 3, [1, 2, 3], CONFIG)
    assert largest_difference(run([0, 0, 0]), off) == 0
    assert calls == [(0, 3), (1, 3), (2, 3)] * 2  # two batches
    assert largest_difference(run([1, 1, 1]), on) == 0
    mixed = run([1, 0, 0])
    assert largest_difference(mixed, off) > 0
    assert largest_difference(mixed, on) > 0


def test_size_and_order(base):
    pictures = sample(base, ["a", "b"], [0, 1], dataclasses.replace(CONFIG, size=32))
    assert [p.size for p in pictures] == [(32, 32)] * 2 and pictures[0].mode == "RGB"
    assert sample(base, [], [], CONFIG) == []


def test_mistakes(base):
    with pytest.raises(ValueError, match="2 prompts but 1 seeds"):
        sample(base, ["a", "b"], [0], CONFIG)
    with pytest.raises(SamplingError, match=r"combination\.sampling\.size.*multiple of 16"):
        sample(base, ["a"], [0], dataclasses.replace(CONFIG, size=20))
    with pytest.raises(ValueError) as caught:
        SamplingConfig(steps=0, guidance_scale=0.5, size=0, batch_size=0)
    for name in ("steps", "guidance_scale", "size", "batch_size"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("not enough memory")]
)
def test_memory_that_does_not_suffice_is_told_with_its_remedy(base, monkeypatch, error):
    def short(self, *args):
        raise error

    monkeypatch.setattr(BaseModel, "decode", short)
    wanted = r"out of memory while sampling 2 pictures of 16 px.*combination\.sampling\.batch_size"
    with pytest.raises(SamplingError, match=wanted):
        sample(base, ["a"] * 3, [0, 1, 2], CONFIG)
    with pytest.raises(SamplingError, match=r"at once\. Take less; then run again\."):
        sample(base, ["a"] * 3, [0, 1, 2], CONFIG, remedy="Take less")


def test_a_batch_where_nobody_says_how_many():
    assert [batch_for(side) for side in (64, 512, 768, 1024, 2048)] == [8, 8, 3, 2, 1]


def test_half_precision_samples_nearly_the_same(tiny_base_folder, base):
    half = load_base(tiny_base_folder, dtype="bfloat16")
    assert (
        largest_difference(sample(half, ["a"], [0], CONFIG), sample(base, ["a"], [0], CONFIG)) < 25
    )


def test_centred_noise_starts_without_a_mean(base, monkeypatch):
    starts = []

    def keep(base, noise, *rest):
        starts.append(noise)
        return noise

    monkeypatch.setattr("blockwise_lora.diffusion.sampling.denoise", keep)
    sample(base, ["a"], [5], CONFIG)
    sample(base, ["a"], [5], dataclasses.replace(CONFIG, center_noise=True))
    plain, centred = starts
    assert plain.mean(dim=(2, 3)).abs().min() > 1e-4
    assert centred.mean(dim=(2, 3)).abs().max() < 1e-6
    means = plain.mean(dim=(2, 3), keepdim=True)
    assert torch.allclose(centred + means, plain, atol=1e-6)
