import json

import numpy as np
import pytest
from PIL import Image

from blockwise_lora.atomic import WriteError
from blockwise_lora.imagesets import ImageSet, ImageSetError, Picture, pixel_hash
from blockwise_lora.imagesets.imagefolder import png_bytes, write_imagefolder


def noise(seed: int, side: int = 8) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def plain_set(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = []
    for seed, text in enumerate(["zkc cat face, grinning", "zkc été, 猫"]):
        noise(seed).save(folder / f"{seed}.png")
        rows.append(json.dumps({"file_name": f"{seed}.png", "text": text}))
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_reads_a_folder_from_elsewhere(plain_set):
    images = ImageSet.read(plain_set)
    assert [p.file_name for p in images] == ["0.png", "1.png"]
    assert images.captions == ("zkc cat face, grinning", "zkc été, 猫")
    assert (images[0].width, images[0].height) == (8, 8)
    assert images[1].sha256 == pixel_hash(noise(1))
    assert images[1].open().tobytes() == noise(1).tobytes()


def test_writing_keeps_everything_and_gives_the_same_bytes(plain_set, tmp_path):
    images = ImageSet.read(plain_set)
    for name in ("a", "b"):
        written = write_imagefolder(tmp_path / name, images)
        assert written.sha256 == images.sha256
    files = sorted(p.name for p in (tmp_path / "a").iterdir())
    assert files == ["0.png", "1.png", "metadata.jsonl"]
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    first = json.loads(
        (tmp_path / "a" / "metadata.jsonl").read_text(encoding="utf-8").split("\n")[0]
    )
    assert list(first)[:2] == ["file_name", "text"]


def test_writing_replaces_an_older_set_and_may_read_from_it(plain_set, tmp_path):
    target = tmp_path / "set"
    images = write_imagefolder(target, ImageSet.read(plain_set))
    write_imagefolder(target, ImageSet(target, images.pictures[:1]))
    assert sorted(p.name for p in target.iterdir()) == ["0.png", "metadata.jsonl"]


def test_hash_sees_pixels_captions_and_order_but_not_names(plain_set, tmp_path):
    images = ImageSet.read(plain_set)
    (plain_set / "0.png").rename(plain_set / "z.png")
    lines = (plain_set / "metadata.jsonl").read_text(encoding="utf-8")
    (plain_set / "metadata.jsonl").write_text(lines.replace("0.png", "z.png"), encoding="utf-8")
    assert ImageSet.read(plain_set).sha256 == images.sha256
    assert ImageSet(plain_set, images.pictures[::-1]).sha256 != images.sha256
    (plain_set / "metadata.jsonl").write_text(
        lines.replace("grin", "frown").replace("0.", "z."), "utf-8"
    )
    assert ImageSet.read(plain_set).sha256 != images.sha256


def test_a_picture_changed_behind_the_sets_back_is_noticed(plain_set, tmp_path):
    images = write_imagefolder(tmp_path / "set", ImageSet.read(plain_set))
    noise(9).save(tmp_path / "set" / "0.png")
    with pytest.raises(ImageSetError, match=r"0\.png has changed.*run the curation again"):
        images[0].open()
    with pytest.raises(ImageSetError, match="has changed"):
        ImageSet.read(tmp_path / "set")[0].open()


def test_a_failure_leaves_the_old_folder(plain_set, tmp_path):
    target = tmp_path / "set"
    write_imagefolder(target, ImageSet.read(plain_set))
    before = {p.name: p.read_bytes() for p in target.iterdir()}
    images = ImageSet.read(plain_set)
    (plain_set / "1.png").write_bytes(b"broken")
    with pytest.raises(ImageSetError, match=r"1\.png"):
        write_imagefolder(target, images)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "set"]


def test_a_folder_with_other_files_is_never_replaced(plain_set, tmp_path):
    images = ImageSet.read(plain_set)
    holiday = tmp_path / "holiday"
    holiday.mkdir()
    (holiday / "beach.jpg").write_bytes(b"precious")
    with pytest.raises(ImageSetError, match=r"beach\.jpg; move them away"):
        write_imagefolder(holiday, images)
    assert (holiday / "beach.jpg").read_bytes() == b"precious"
    with pytest.raises(ImageSetError, match=r"0\.png"):  # a user's own metadata.jsonl, no hashes
        write_imagefolder(plain_set, images)


def test_a_file_in_place_of_the_folder_is_explained(plain_set, tmp_path):
    (tmp_path / "set").write_text("not a folder")
    with pytest.raises(WriteError, match=r"set: a file stands where a folder is needed"):
        write_imagefolder(tmp_path / "set", ImageSet.read(plain_set))


def test_other_formats_become_png_in_name_and_content(plain_set, tmp_path):
    noise(3).save(plain_set / "photo.bmp")
    picture = Picture(plain_set / "photo.bmp", "photo.bmp", "a", 8, 8, pixel_hash(noise(3)))
    written = write_imagefolder(tmp_path / "set", ImageSet(plain_set, (picture,)))
    assert written[0].file_name == "photo.bmp.png"
    assert (tmp_path / "set" / "photo.bmp.png").read_bytes() == png_bytes(noise(3))


def test_missing_things_name_the_remedy(plain_set, tmp_path):
    with pytest.raises(ImageSetError, match=r"nowhere: no such folder; run the curation"):
        ImageSet.read(tmp_path / "nowhere")
    with pytest.raises(ImageSetError, match=r"no metadata\.jsonl; curate the folder"):
        ImageSet.read(tmp_path)
    (plain_set / "1.png").unlink()
    with pytest.raises(ImageSetError, match=r"line 2: 1\.png does not exist; remove the row"):
        ImageSet.read(plain_set)
    (plain_set / "metadata.jsonl").write_text("\n")
    with pytest.raises(ImageSetError, match="no pictures"):
        ImageSet.read(plain_set)
