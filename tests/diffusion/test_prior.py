import dataclasses

import pytest
import torch
from PIL import Image

from blockwise_lora.adapters import AdapterSpec, attach, detach
from blockwise_lora.diffusion import looks as looks_module
from blockwise_lora.diffusion import prior as prior_module
from blockwise_lora.diffusion.attached import bare
from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.batches import Batch, predict
from blockwise_lora.diffusion.caches import CachedSet, ResolutionError
from blockwise_lora.diffusion.captions import CaptionError
from blockwise_lora.diffusion.config import (
    LossConfig,
    PriorConfig,
    ScheduleConfig,
    TrainingConfig,
    ValidationConfig,
)
from blockwise_lora.diffusion.prior import class_pictures
from blockwise_lora.diffusion.trainer import train
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_pictures

PICTURES = PriorConfig("pictures", pictures=3, sampling_steps=2)
DISTIL = PriorConfig("distil", weight=0.5, share=0.5)
CONFIG = TrainingConfig(steps=8, batch_size=2, learning_rate=2e-2, trigger="zkc")


def with_prior(prior):
    return dataclasses.replace(CONFIG, prior=prior)


@pytest.fixture
def painted(monkeypatch):
    """How many pictures the base model paints."""
    counts = []
    decode = BaseModel.decode
    monkeypatch.setattr(
        BaseModel, "decode", lambda self, x: (counts.append(len(x)), decode(self, x))[1]
    )
    return counts


def test_class_pictures_are_the_bases_own_and_are_kept(base, images, tmp_path, painted):
    with class_pictures(base, images, with_prior(PICTURES), tmp_path) as first:
        assert len(first) == 3
        assert first.captions == ("square, 0", "square, 1", "square, 2")
        assert {(p.width, p.height) for p in first} == {(16, 16)}
    generator = torch.Generator().manual_seed(0)
    attach(base.unet, AdapterSpec(method="locon", rank=2), "other", generator)
    for parameter in base.unet.parameters():
        if parameter.requires_grad:
            parameter.data.fill_(0.1)
    with class_pictures(base, images, with_prior(PICTURES), None) as second:
        assert second.sha256 == first.sha256, "an adapter that is attached has no part in them"
    assert sum(painted) == 6
    with class_pictures(base, images, with_prior(PICTURES), tmp_path) as third:
        assert third.sha256 == first.sha256
    assert sum(painted) == 6, "kept"
    changes = ({"sampling_steps": 3}, {"guidance_scale": 2.0})
    others = [with_prior(dataclasses.replace(PICTURES, **change)) for change in changes]
    for config in (dataclasses.replace(with_prior(PICTURES), seed=1), *others):
        with class_pictures(base, images, config, tmp_path) as other:
            assert other.sha256 != first.sha256, config


def test_large_pictures_are_painted_and_looked_at_in_smaller_batches(base, images, monkeypatch):
    """As many as `batch_for` says; the remedy is one that the training has."""
    asked = []

    def sampled(base, prompts, seeds, config, *, title, remedy):
        asked.append((config.batch_size, remedy))
        return [Image.new("RGB", (16, 16))] * len(prompts)

    for module in (prior_module, looks_module):
        monkeypatch.setattr(module, "batch_for", lambda side: 10 + side)
        monkeypatch.setattr(module, "sample", sampled)
    looks = ValidationConfig(every=1, prompts=("a",))
    config = dataclasses.replace(with_prior(PICTURES), steps=1, validation=looks)
    train(base, images, AdapterSpec("out3", "locon", rank=2), config)
    assert [size for size, _ in asked] == [26, 26]
    assert "distil" in asked[0][1] and "validation.prompts" in asked[1][1]


def test_none_are_painted_unless_asked(base, images, painted):
    for prior in (PriorConfig(), DISTIL):
        with class_pictures(base, images, with_prior(prior)) as none:
            assert none is None
    assert painted == []


def test_mixed_sizes_have_no_class_pictures(base, tmp_path):
    folder = write_tiny_pictures(tmp_path / "set")
    Image.new("RGB", (16, 32)).save(folder / "1.png")
    with (
        pytest.raises(ResolutionError, match="take distil"),
        class_pictures(base, read_imagefolder(folder), with_prior(PICTURES)),
    ):
        pass


def test_a_batch_with_class_pictures(base, images):
    config = with_prior(dataclasses.replace(PICTURES, weight=0.5, share=1.5))
    with class_pictures(base, images, config) as prior:
        cached = CachedSet.of(base, images, config, prior=prior)
    batch = Batch.of(base, cached, config, 0)
    plain = Batch.of(base, CachedSet.of(base, images), CONFIG, 0)
    assert len(batch.noisy) == 2 + 3 and batch.taught == 0
    assert torch.equal(batch.noisy[:2], plain.noisy), "the concept's own part is what it was"
    shares = dataclasses.replace(config, loss=dataclasses.replace(config.loss, min_snr_gamma=None))
    weight = Batch.of(base, cached, shares, 0).weight
    assert weight.tolist() == pytest.approx([0.5, 0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3])
    words = base.encode_prompts(["square, 0", "square, 1", "square, 2"]).tokens
    for row in batch.text.tokens[2:]:
        assert any(torch.allclose(row, word, atol=1e-5) for word in words)


def test_a_batch_to_be_distilled(base, images):
    config = with_prior(DISTIL)
    cached = CachedSet.of(base, images, config)
    batch = Batch.of(base, cached, config, 0)
    assert (len(batch.noisy), batch.taught) == (3, 1)
    filled = batch.taught_by(base)
    answer = base.answer(batch.noisy, batch.timesteps, batch.text, batch.frames)
    torch.testing.assert_close(filled.wanted[2], answer[2], rtol=1e-4, atol=1e-5)
    assert torch.equal(filled.wanted[:2], batch.wanted[:2])
    without = base.encode_prompts([f"square, {i}" for i in range(5)]).tokens
    assert any(torch.allclose(batch.text.tokens[2], word, atol=1e-5) for word in without)


def test_a_prior_may_weigh_its_noise_levels_by_itself(base, images):
    """Its own gamma for its rows, the loss's for the others: here min(gamma, snr) / snr by hand."""
    config = with_prior(dataclasses.replace(DISTIL, weight=2.0, share=1.0, min_snr_gamma=0.5))
    config = dataclasses.replace(config, loss=LossConfig(min_snr_gamma=2.0))
    cached = CachedSet.of(base, images, config)
    least = []
    for turn in range(8):
        batch = Batch.of(base, cached, config, turn)
        a_t = base.scheduler.alphas_cumprod[batch.timesteps]
        snr = (a_t / (1 - a_t)).tolist()
        by_hand = [min(2.0, r) / r / 2 for r in snr[:2]] + [min(0.5, r) / r for r in snr[2:]]
        assert batch.weight.tolist() == pytest.approx(by_hand)
        least.append(min(by_hand[2:]))
    assert min(least) < 0.5, "some step has so little noise that the cap shows"
    without = with_prior(dataclasses.replace(DISTIL, weight=2.0, share=1.0))
    without = dataclasses.replace(without, loss=LossConfig(min_snr_gamma=2.0))
    same = dataclasses.replace(without, prior=dataclasses.replace(without.prior, min_snr_gamma=2.0))
    assert torch.equal(
        Batch.of(base, cached, without, 3).weight, Batch.of(base, cached, same, 3).weight
    )


def test_a_prior_may_begin_later(base, images):
    config = with_prior(dataclasses.replace(DISTIL, start=0.5))
    config = dataclasses.replace(config, steps=4)
    cached = CachedSet.of(base, images, config)

    def rows(config, turns):
        batches = [Batch.of(base, cached, config, turn) for turn in range(turns)]
        return [(len(batch.noisy), batch.taught) for batch in batches]

    assert rows(config, 4) == [(2, 0), (2, 0), (3, 1), (3, 1)]
    accumulated = dataclasses.replace(config, accumulation=2)
    assert rows(accumulated, 8) == [(2, 0)] * 4 + [(3, 1)] * 4


def test_until_it_begins_the_training_is_one_without(base, images):
    late = with_prior(dataclasses.replace(DISTIL, start=0.75))
    late = dataclasses.replace(late, steps=4)
    spec = AdapterSpec("out3", rank=2)
    with_it = train(base, images, spec, late, name="late").losses
    without = train(base, images, spec, dataclasses.replace(late, prior=PriorConfig()), name="none")
    assert with_it[:3] == without.losses[:3] and with_it[3] != without.losses[3]


@pytest.mark.parametrize("start", [-0.1, 1.0])
def test_a_prior_that_never_begins_is_refused(start):
    with pytest.raises(ValueError, match=r"start is in \[0, 1\)"):
        PriorConfig(start=start)


def test_bare_switches_adapters_off_and_on_again(base, images):
    config = with_prior(DISTIL)
    batch = Batch.of(base, CachedSet.of(base, images, config), config, 0)
    plain = predict(base, [batch])
    attach(base.unet, AdapterSpec(rank=2), "some", torch.Generator().manual_seed(0))
    trainable = [p for p in base.unet.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.data.fill_(0.1)
    changed = predict(base, [batch])
    with bare(base):
        assert torch.equal(predict(base, [batch]), plain)
        assert all(p.requires_grad for p in trainable)
    assert torch.equal(predict(base, [batch]), changed) and not torch.equal(changed, plain)


def forgotten(base, images, probe, config):
    """How badly the model answers about the class, where `probe` says what is right."""
    with class_pictures(base, images, probe) as prior:
        cached = CachedSet.of(base, images, probe, prior=prior)
    batches = [Batch.of(base, cached, probe, i).taught_by(base) for i in range(3)]
    trained = train(base, images, AdapterSpec("out2-out3", "locon", 4), config)
    answers = [predict(base, [batch])[2:] for batch in batches]
    detach(base.unet, trained.attached.name)
    pairs = zip(answers, batches, strict=True)
    return sum((answer - batch.wanted[2:]).square().mean().item() for answer, batch in pairs)


# The base is random: its class pictures teach it little that the concept's own would not.
@pytest.mark.parametrize(("prior", "share"), [(PICTURES, 0.97), (DISTIL, 0.5)])
def test_what_the_model_knew_of_the_class_is_kept(base, images, prior, share):
    config = dataclasses.replace(
        CONFIG, steps=6, learning_rate=3e-2, schedule=ScheduleConfig("constant")
    )
    strong = dataclasses.replace(config, prior=dataclasses.replace(prior, weight=8.0, share=1.0))
    free = forgotten(base, images, strong, config)
    assert forgotten(base, images, strong, strong) < share * free


def test_captions_without_trigger_are_told_before_any_training(base, images):
    config = dataclasses.replace(with_prior(DISTIL), trigger="qwo")
    with pytest.raises(CaptionError, match="lacks the trigger 'qwo'"):
        train(base, images, AdapterSpec(rank=2), config)
