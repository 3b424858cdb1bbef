import copy
import json

import pytest
import torch
from PIL import Image

from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.caches import CachedSet, ResolutionError
from blockwise_lora.diffusion.config import (
    AugmentConfig,
    CaptionConfig,
    LossConfig,
    TrainingConfig,
)
from blockwise_lora.imagesets import read_imagefolder
from tiny_base import write_tiny_pictures


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures the VAE encodes."""
    counts = []
    encode = BaseModel.encode_moments

    def counting(self, pixels):
        counts.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(BaseModel, "encode_moments", counting)
    return counts


def test_pictures_and_captions_are_what_the_model_makes_of_them(base, images):
    cached = CachedSet.of(base, images)
    (shelf,) = cached.shelves
    pixels = torch.tensor(list(images[3].open().get_flattened_data()), dtype=torch.float32)
    pixels = pixels.view(1, 16, 16, 3).permute(0, 3, 1, 2) / 127.5 - 1
    mean, std = base.encode_moments(pixels)
    torch.testing.assert_close(shelf.mean[3:4], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shelf.std[3:4], std, rtol=1e-4, atol=1e-5)
    for i, caption in enumerate(images.captions):
        torch.testing.assert_close(
            cached.text[shelf.wording[i]].tokens, base.encode_prompts([caption]).tokens
        )
    torch.testing.assert_close(cached.text[[-1]].tokens, base.encode_prompts([""]).tokens)
    assert shelf.entry.tolist() == [[0], [1], [2], [3], [4]] and shelf.mask is None
    assert shelf.frames[0].tolist() == [16, 16, 0, 0, 16, 16]


def test_one_embedding_for_equal_captions(base, tmp_path):
    cached = CachedSet.of(base, captioned(tmp_path / "set", ["same"] * 3))
    assert len(cached.text) == 2
    assert cached.shelves[0].wording.tolist() == [[0], [0], [0]]


def captioned(folder, captions, **columns):
    """Pictures with these captions, and more columns of their metadata."""
    write_tiny_pictures(folder, len(captions))
    metadata = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    for i, (row, caption) in enumerate(zip(rows, captions, strict=True)):
        row |= {"text": caption} | {name: values[i] for name, values in columns.items()}
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_imagefolder(folder)


def test_wordings_are_rows_of_their_own(base, tmp_path):
    images = captioned(tmp_path / "set", ["zkc cat, a, b, c", "zkc cat"])
    config = TrainingConfig(captions=CaptionConfig(shuffle=True, wordings=40))
    cached = CachedSet.of(base, images, config)
    wording = cached.shelves[0].wording
    assert wording.shape == (2, 40)
    assert len(set(wording[0].tolist())) == 6, "all orders of three tags"
    assert len(set(wording[1].tolist())) == 1
    assert len(cached.text) == 6 + 1 + 1


def test_repeats_are_in_the_order_of_a_pass(base, tmp_path):
    images = captioned(tmp_path / "set", ["a", "b", "c"], repeats=[1, 3, 1])
    assert CachedSet.of(base, images).shelves[0].order.tolist() == [0, 1, 1, 1, 2]


def test_views_are_entries_of_their_own(base, images):
    config = TrainingConfig(augment=AugmentConfig(flip=True, variants=1, crop=0.5))
    (shelf,) = CachedSet.of(base, images, config).shelves
    assert shelf.entry.shape == (5, 4) and len(shelf.mean) == 20
    assert torch.equal(shelf.entry.flatten(), torch.arange(20))
    assert len(shelf.frames.unique(dim=0)) > 1


def test_sizes_are_shelves(base, tmp_path):
    folder = write_tiny_pictures(tmp_path / "mixed")
    for i in (1, 4):
        Image.new("RGB", (16, 32), "red").save(folder / f"{i}.png")
    cached = CachedSet.of(base, read_imagefolder(folder))
    assert [shelf.shape for shelf in cached.shelves] == [(4, 8, 8), (4, 16, 8)]
    assert [len(shelf.order) for shelf in cached.shelves] == [3, 2]
    tall = cached.shelves[1]
    assert tall.frames[0].tolist() == [32, 16, 0, 0, 32, 16]
    wanted = base.encode_prompts(["zkc square, 1", "zkc square, 4"]).tokens
    torch.testing.assert_close(cached.text[tall.wording[:, 0]].tokens, wanted)


def test_masks_become_weights_of_latents(base, tmp_path):
    folder = tmp_path / "set"
    write_tiny_pictures(folder, 2)
    mask = Image.new("L", (16, 16), 0)
    mask.paste(255, (0, 0, 8, 16))
    (folder / "masks").mkdir()
    mask.save(folder / "masks" / "0.png")
    metadata = folder / "metadata.jsonl"
    rows = [json.loads(line) for line in metadata.read_text().splitlines()]
    rows[0]["mask_file_name"] = "masks/0.png"
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    images = read_imagefolder(folder)
    config = TrainingConfig(loss=LossConfig(masked=True, unmasked_weight=0.25))
    (shelf,) = CachedSet.of(base, images, config).shelves
    assert shelf.mask.shape == (2, 1, 8, 8)
    assert shelf.mask[0, 0, 3].tolist() == [1.0] * 4 + [0.25] * 4
    assert shelf.mask[1].unique().tolist() == [1.0], "no mask: all of it"
    assert CachedSet.of(base, images).shelves[0].mask is None


def test_moments_on_disk_are_used_again(base, images, tmp_path, encoded):
    first = CachedSet.of(base, images, folder=tmp_path)
    second = CachedSet.of(base, images, folder=tmp_path)
    assert encoded == [5]
    one, two = first.shelves[0], second.shelves[0]
    assert torch.equal(one.mean, two.mean) and torch.equal(one.std, two.std)


def test_changed_pixels_or_model_are_encoded_anew(base, images, tmp_path, encoded):
    import dataclasses

    CachedSet.of(base, images, folder=tmp_path)
    folder = write_tiny_pictures(tmp_path / "set")
    Image.new("RGB", (16, 16), "red").save(folder / "2.png")
    CachedSet.of(base, read_imagefolder(folder), folder=tmp_path)
    CachedSet.of(dataclasses.replace(base, sha256="another"), images, folder=tmp_path)
    assert encoded == [5, 5, 5]
    vae = copy.copy(base.vae)  # the same weights under another configuration
    vae.register_to_config(scaling_factor=0.7)
    CachedSet.of(dataclasses.replace(base, vae=vae), images, folder=tmp_path)
    assert encoded == [5, 5, 5, 5] and base.vae.config.scaling_factor == 0.5


def test_another_device_or_rounding_encodes_anew(base, images, tmp_path, encoded, monkeypatch):
    for arithmetic in ("", " cuda", " cuda tf32", ""):
        monkeypatch.setattr(BaseModel, "arithmetic", arithmetic)
        CachedSet.of(base, images, folder=tmp_path)
    assert encoded == [5, 5, 5]


def test_the_same_bytes_in_another_size_are_encoded_anew(base, tmp_path, encoded):
    """A wide and a tall picture of one colour."""
    for size in ((32, 16), (16, 32)):
        folder = write_tiny_pictures(tmp_path / str(size), 1)
        Image.new("RGB", size, "red").save(folder / "0.png")
        (shelf,) = CachedSet.of(base, read_imagefolder(folder), folder=tmp_path / "cache").shelves
        assert shelf.shape == (4, size[1] // 2, size[0] // 2)
    assert encoded == [1, 1]


def test_a_damaged_file_is_replaced(base, images, tmp_path, encoded):
    whole = CachedSet.of(base, images, folder=tmp_path)
    (file,) = (tmp_path / "latents").iterdir()
    file.write_bytes(b"nonsense")
    again = CachedSet.of(base, images, folder=tmp_path)
    assert torch.equal(whole.shelves[0].mean, again.shelves[0].mean)
    CachedSet.of(base, images, folder=tmp_path)
    assert encoded == [5, 5]


def test_a_folder_that_cannot_be_written_costs_a_warning(base, images, tmp_path, caplog):
    (tmp_path / "file").touch()
    CachedSet.of(base, images, folder=tmp_path / "file" / "cache")
    assert "not kept for the next run" in caplog.text


def test_sizes_that_the_model_cannot_take(base, tmp_path):
    odd = read_imagefolder(write_tiny_pictures(tmp_path / "odd", side=24))
    with pytest.raises(ResolutionError, match=r"24x24.*multiples of 16.*resolution.*to 16"):
        CachedSet.of(base, odd)


def test_another_resolution_than_the_models_is_said(base, tmp_path, caplog):
    large = read_imagefolder(write_tiny_pictures(tmp_path / "large", 2, side=32))
    assert CachedSet.of(base, large).shelves[0].mean.shape == (2, 4, 16, 16)
    assert "32x32, but tiny was made for 16x16" in caplog.text
