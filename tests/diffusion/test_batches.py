"""A batch is what was drawn, by hand from the cache."""

import dataclasses
import json

import pytest
import torch
from PIL import Image

from blockwise_lora.diffusion.base import load_base
from blockwise_lora.diffusion.batches import Batch
from blockwise_lora.diffusion.caches import CachedSet
from blockwise_lora.diffusion.config import (
    AugmentConfig,
    CaptionConfig,
    LossConfig,
    NoiseConfig,
    TrainingConfig,
)
from blockwise_lora.diffusion.draws import draw
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_base, write_tiny_pictures

CONFIG = TrainingConfig(batch_size=4, loss=LossConfig(min_snr_gamma=None))
TURNS = range(6)


@pytest.fixture(scope="module")
def v_base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "v"
    return load_base(write_tiny_base(folder, prediction_type="v_prediction"))


def drawn(base, cached, config, turn):
    shelf, levels = cached.shelves[0], len(base.scheduler.alphas_cumprod)
    return draw(config, turn, shelf.order, shelf.shape, levels)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_latents_are_drawn_from_the_moments_and_noised(base, v_base, images, kind, gamma):
    model = base if kind == "epsilon" else v_base
    config = dataclasses.replace(CONFIG, loss=LossConfig(min_snr_gamma=gamma))
    cached = CachedSet.of(model, images, config)
    batch, draws = Batch.of(model, cached, config, 3), drawn(model, cached, config, 3)
    shelf, a = cached.shelves[0], model.scheduler.alphas_cumprod[draws.timesteps]
    latents = shelf.mean[draws.rows] + shelf.std[draws.rows] * draws.latent_noise
    signal, noise = a.sqrt().view(-1, 1, 1, 1), (1 - a).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(batch.noisy, signal * latents + noise * draws.noise)
    wanted = draws.noise if kind == "epsilon" else signal * draws.noise - noise * latents
    torch.testing.assert_close(batch.wanted, wanted)
    snr = a / (1 - a)
    least = snr if gamma is None else snr.clamp(max=gamma)
    weight = least / snr if kind == "epsilon" or gamma is None else least / (snr + 1)
    torch.testing.assert_close(batch.weight, weight / 4)


def test_the_loss_is_the_one_that_was_chosen(base, images):
    cached = CachedSet.of(base, images)
    values = []
    for loss in (LossConfig("mse"), LossConfig("huber"), LossConfig("huber", huber_delta=0.01)):
        batch = Batch.of(base, cached, dataclasses.replace(CONFIG, loss=loss), 0)
        values.append((batch.loss(batch.wanted + 1) / batch.weight.sum()).item())
    # Of an error of 1: its square, and 2 d (sqrt(1 + d^2) - d).
    assert values == pytest.approx([1.0, 0.2 * (1.01**0.5 - 0.1), 0.02 * (1.0001**0.5 - 0.01)])


def test_a_picture_has_other_latents_each_time(base, images):
    """At the lowest noise level x_t is nearly x_0: what differs is the VAE's own deviation."""
    still = dataclasses.replace(CONFIG, noise=NoiseConfig(lowest=0.0, highest=0.001))
    cached = CachedSet.of(base, images, still)
    wide = dataclasses.replace(cached.shelves[0], std=torch.ones_like(cached.shelves[0].std))
    cached = dataclasses.replace(cached, shelves=(wide,))
    seen = {}
    for turn in TURNS:
        batch, draws = Batch.of(base, cached, still, turn), drawn(base, cached, still, turn)
        for row, noisy in zip(draws.rows.tolist(), batch.noisy, strict=True):
            seen.setdefault(row, []).append(noisy - wide.mean[row])
    for changes in seen.values():
        assert 0.8 < torch.stack(changes).std() < 1.2 and not torch.equal(*changes[:2])


def test_views_wordings_and_dropped_captions_are_those_drawn(base, images):
    config = dataclasses.replace(
        CONFIG,
        augment=AugmentConfig(flip=True, variants=1, crop=0.6),
        captions=CaptionConfig(dropout=0.3, shuffle=True, keep=0, wordings=4),
    )
    cached = CachedSet.of(base, images, config)
    (shelf,), views, wordings = cached.shelves, set(), set()
    for turn in TURNS:
        batch, draws = Batch.of(base, cached, config, turn), drawn(base, cached, config, turn)
        view, wording = (draws.view * 4).long(), (draws.wording * 4).long()
        assert torch.equal(batch.frames, shelf.frames[shelf.entry[draws.rows, view]])
        rows = shelf.wording[draws.rows, wording]
        rows[draws.dropped] = len(cached.text) - 1
        assert torch.equal(batch.text.tokens, cached.text[rows].tokens)
        views |= set(view.tolist())
        wordings |= set(wording.tolist())
    assert views == wordings == set(range(4))


def test_shapes_of_equal_area_are_noised_differently(base, tmp_path):
    folder = write_tiny_pictures(tmp_path / "mixed", 6)
    for i in range(6):
        Image.new("RGB", (16, 32) if i % 2 else (32, 16), "red").save(folder / f"{i}.png")
    cached = CachedSet.of(base, read_imagefolder(folder))
    wide, tall = sorted(
        (Batch.of(base, cached, CONFIG, turn) for turn in (0, 1)), key=lambda b: b.shape
    )
    assert [batch.shape for batch in (wide, tall)] == [(4, 4, 8, 16), (4, 4, 16, 8)]
    assert not torch.equal(wide.timesteps, tall.timesteps)
    assert not torch.equal(wide.wanted.flatten(), tall.wanted.flatten())


def test_masks_follow_their_pictures(base, tmp_path):
    """Each picture shows as many columns as its number says."""
    folder, lines = write_tiny_pictures(tmp_path / "set", 4), []
    (folder / "masks").mkdir()
    for i, line in enumerate((folder / "metadata.jsonl").read_text().splitlines()):
        mask = Image.new("L", (16, 16), 0)
        mask.paste(255, (0, 0, 4 * i + 2, 16))
        mask.save(folder / "masks" / f"{i}.png")
        lines.append(json.dumps(json.loads(line) | {"mask_file_name": f"masks/{i}.png"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    images = read_imagefolder(folder)
    masked = dataclasses.replace(CONFIG, loss=LossConfig(masked=True))
    cached = CachedSet.of(base, images, masked)
    batch, draws = Batch.of(base, cached, masked, 0), drawn(base, cached, masked, 0)
    assert (8 * batch.mask.mean((1, 2, 3))).tolist() == [2 * i + 1 for i in draws.rows.tolist()]
    assert Batch.of(base, CachedSet.of(base, images), CONFIG, 0).mask is None
    wrong = batch.wanted + (batch.mask == 0)
    assert batch.loss(wrong).item() == 0, "what the mask hides does not count"
    assert batch.loss(batch.wanted + 1).item() > 0
