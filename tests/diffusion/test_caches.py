import json

import pytest
import torch
from PIL import Image

from blockwise_lora.diffusion.base import BaseModel
from blockwise_lora.diffusion.caches import CachedSet, ResolutionError
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
    pixels = torch.tensor(list(images[3].open().get_flattened_data()), dtype=torch.float32)
    pixels = pixels.view(1, 16, 16, 3).permute(0, 3, 1, 2) / 127.5 - 1
    mean, std = base.encode_moments(pixels)
    torch.testing.assert_close(cached.mean[3:4], mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cached.std[3:4], std, rtol=1e-4, atol=1e-5)
    for i, caption in enumerate(images.captions):
        torch.testing.assert_close(
            cached.embeddings[cached.caption[i]], base.encode_prompts([caption])[0]
        )
    torch.testing.assert_close(cached.embeddings[-1], base.encode_prompts([""])[0])


def test_one_embedding_for_equal_captions(base, tmp_path):
    folder = write_tiny_pictures(tmp_path / "set", 3)
    metadata = folder / "metadata.jsonl"
    rows = [json.loads(line) | {"text": "same"} for line in metadata.read_text().splitlines()]
    metadata.write_text("".join(json.dumps(row) + "\n" for row in rows))
    cached = CachedSet.of(base, read_imagefolder(folder))
    assert len(cached.embeddings) == 2
    assert cached.caption.tolist() == [0, 0, 0]


def test_moments_on_disk_are_used_again(base, images, tmp_path, encoded):
    first = CachedSet.of(base, images, tmp_path)
    second = CachedSet.of(base, images, tmp_path)
    assert encoded == [5]
    assert torch.equal(first.mean, second.mean) and torch.equal(first.std, second.std)


def test_changed_pixels_or_model_are_encoded_anew(base, images, tmp_path, encoded):
    import dataclasses

    CachedSet.of(base, images, tmp_path)
    folder = write_tiny_pictures(tmp_path / "set")
    Image.new("RGB", (16, 16), "red").save(folder / "2.png")
    CachedSet.of(base, read_imagefolder(folder), tmp_path)
    CachedSet.of(dataclasses.replace(base, sha256="another"), images, tmp_path)
    assert encoded == [5, 5, 5]


def test_a_damaged_file_is_replaced(base, images, tmp_path, encoded):
    whole = CachedSet.of(base, images, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"nonsense")
    again = CachedSet.of(base, images, tmp_path)
    assert torch.equal(whole.mean, again.mean)
    CachedSet.of(base, images, tmp_path)
    assert encoded == [5, 5]


def test_a_folder_that_cannot_be_written_costs_a_warning(base, images, tmp_path, caplog):
    (tmp_path / "file").touch()
    CachedSet.of(base, images, tmp_path / "file" / "cache")
    assert "not kept for the next run" in caplog.text


def test_sizes_that_the_model_cannot_take(base, tmp_path):
    odd = read_imagefolder(write_tiny_pictures(tmp_path / "odd", side=24))
    with pytest.raises(ResolutionError, match=r"24x24.*multiples of 16.*resolution.*to 16"):
        CachedSet.of(base, odd)
    folder = write_tiny_pictures(tmp_path / "mixed")
    Image.new("RGB", (32, 32)).save(folder / "1.png")
    with pytest.raises(ResolutionError, match=r"different sizes \(16x16, 32x32\)"):
        CachedSet.of(base, read_imagefolder(folder))


def test_another_resolution_than_the_models_is_said(base, tmp_path, caplog):
    large = read_imagefolder(write_tiny_pictures(tmp_path / "large", 2, side=32))
    assert CachedSet.of(base, large).mean.shape == (2, 4, 16, 16)
    assert "32x32, but tiny was made for 16x16" in caplog.text
