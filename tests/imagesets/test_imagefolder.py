import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from blockwise_lora.atomic import WriteError
from blockwise_lora.imagesets import ImageSet, ImageSetError, Picture, pixel_hash
from blockwise_lora.imagesets.card import MARK
from blockwise_lora.imagesets.framing import Framing
from blockwise_lora.imagesets.imagefolder import in_kohya_folders, png_bytes, write_imagefolder
from blockwise_lora.imagesets.images import Mask


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
    noise(2).save(plain_set / "1.png")  # what is in the old folder would not be opened
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


def test_what_file_managers_leave_there_is_no_obstacle(rich_set, tmp_path):
    target = tmp_path / "set"
    write_imagefolder(target, rich_set)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "masks/.DS_Store"):
        (target / name).write_bytes(b"x")
    write_imagefolder(target, rich_set)
    assert not list(target.rglob(".DS_Store"))


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


def mask_of(seed: int, side: int = 8) -> Image.Image:
    return noise(seed, side).convert("L").point(lambda v: 255 * (v > 127))


@pytest.fixture
def rich_set(plain_set):
    """One picture with a mask, one that is shown three times."""
    mask_of(5).save(plain_set / "mask.png")
    first, second = ImageSet.read(plain_set).pictures
    mask = Mask(plain_set / "mask.png", pixel_hash(mask_of(5)))
    pictures = (replace(first, mask=mask), replace(second, repeats=3))
    return ImageSet(plain_set, pictures, card=f"---\nlicense: unknown\n---\n\n{MARK}\n\n# x\n")


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("kohya", [False, True])
def test_masks_repeats_and_card_come_back(rich_set, tmp_path, kohya):
    images = in_kohya_folders(rich_set, "zkc cat", 10) if kohya else rich_set
    for name in ("a", "b"):
        written = write_imagefolder(tmp_path / name, images)
        assert written.sha256 == rich_set.sha256
        assert written.card == rich_set.card
        assert [p.repeats for p in written] == [1, 3]
        assert written[0].open_mask().tobytes() == mask_of(5).tobytes()
        assert written[1].open_mask() is None
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    write_imagefolder(tmp_path / "a", ImageSet.read(tmp_path / "b"))  # in place of the old one
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_masks_and_repeats_are_part_of_the_hash(rich_set):
    first, second = rich_set.pictures
    for other in (
        (replace(first, mask=None), second),
        (first, replace(second, repeats=1)),
        (replace(first, mask=replace(first.mask, sha256="0")), second),
    ):
        assert ImageSet(rich_set.root, other).sha256 != rich_set.sha256


def test_a_mask_is_framed_like_its_picture_and_padding_does_not_count(tmp_path):
    Image.new("L", (8, 4), 255).save(tmp_path / "mask.png")
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
    framed = Image.new("L", (16, 16), 0)
    framed.paste(255, (0, 4, 16, 12))
    mask = Mask(tmp_path / "mask.png", pixel_hash(framed))
    picture = Picture(tmp_path / "a.png", "a.png", "", 16, 16, "", framing=Framing(16), mask=mask)
    assert picture.open_mask().tobytes() == framed.tobytes()
    changed = replace(picture, mask=replace(mask, sha256="0"))
    with pytest.raises(ImageSetError, match=r"mask\.png has changed"):
        changed.open_mask()


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"repeats": 0}, "repeats is a whole number from 1 on, not 0"),
        ({"repeats": "2"}, "not '2'"),
        ({"mask_file_name": "../mask.png"}, "leads out of the folder"),
        ({"mask_file_name": "mask.png"}, "not as large as its picture"),
    ],
)
def test_rows_that_do_not_fit(plain_set, row, match):
    mask_of(1, 9).save(plain_set / "mask.png")
    (plain_set / "metadata.jsonl").write_text(json.dumps({"file_name": "0.png"} | row))
    with pytest.raises(ImageSetError, match=match):
        ImageSet.read(plain_set)


def kohya(folder, ending):
    """What kohya's trainer makes of a folder: captions, by its rules, each so often.

    Sub-folders are named NUMBER_NAME, pictures have one of its endings, and the caption is the
    file of the same name with the ending that `--caption_extension` says.
    """
    seen = []
    for place in sorted(p for p in folder.iterdir() if p.is_dir()):
        number = place.name.split("_")[0]
        if number.isdigit():
            for file in sorted(place.iterdir()):
                if file.suffix in (".png", ".jpg", ".jpeg", ".webp", ".bmp"):
                    seen += [file.with_suffix(ending).read_text("utf-8").strip()] * int(number)
    return seen


def test_kohyas_trainer_reads_the_folder_as_it_is(rich_set, tmp_path):
    images = in_kohya_folders(rich_set, "zkc cat/face: *", 2)
    written = write_imagefolder(tmp_path / "set", images)
    assert [p.file_name for p in written] == ["2_zkc cat face/0.png", "6_zkc cat face/1.png"]
    grin, summer = rich_set.captions
    for ending in (".caption", ".txt"):  # its default, and what is usual
        assert kohya(tmp_path / "set", ending) == [grin] * 2 + [summer] * 6
    # A text that somebody put there is not ours.
    (tmp_path / "set" / "2_zkc cat face" / "notes.txt").write_text("mine")
    with pytest.raises(ImageSetError, match=r"notes\.txt; move them away"):
        write_imagefolder(tmp_path / "set", images)


def test_somebodys_readme_is_not_replaced(rich_set, tmp_path):
    write_imagefolder(tmp_path / "set", rich_set)
    (tmp_path / "set" / "README.md").write_text("# My notes")
    with pytest.raises(ImageSetError, match=r"README\.md; move them away"):
        write_imagefolder(tmp_path / "set", rich_set)


@pytest.mark.parametrize("layout", ["imagefolder", "kohya"])
@pytest.mark.parametrize("how", ["name", "builder", "diffusers"])
def test_datasets_loads_it(rich_set, tmp_path, monkeypatch, layout, how):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    images = in_kohya_folders(rich_set, "zkc cat", 10) if layout == "kohya" else rich_set
    folder = tmp_path / "set"
    write_imagefolder(folder, images)
    arguments = {
        "name": {"path": str(folder)},
        "builder": {"path": "imagefolder", "data_dir": str(folder)},
        # The training scripts of diffusers hand over every file that there is.
        "diffusers": {"path": "imagefolder", "data_files": {"train": str(folder / "**")}},
    }[how]
    rows = datasets.load_dataset(**arguments, split="train", cache_dir=str(tmp_path / "cache"))
    rows = sorted(rows, key=lambda row: row["source"] + row["text"])
    found = {row["text"]: row for row in rows if row["text"]}
    assert set(found) == set(images.captions)
    for seed, caption in enumerate(images.captions):
        assert found[caption]["image"].convert("RGB").tobytes() == noise(seed).tobytes()
    assert len(rows) == 2
    assert found[images.captions[0]]["mask"].tobytes() == mask_of(5).tobytes()
    assert [found[caption]["repeats"] for caption in images.captions] == [1, 3]


def test_what_is_in_the_old_folder_is_not_made_again(plain_set, tmp_path):
    Image.new("L", (8, 8), 128).save(tmp_path / "mask.png")
    mask = Mask(tmp_path / "mask.png", pixel_hash(Image.new("L", (8, 8), 128)))
    images = ImageSet.read(plain_set)
    images = replace(images, pictures=tuple(replace(p, mask=mask) for p in images))
    target = tmp_path / "set"
    write_imagefolder(target, images)
    before = {p.name: p.read_bytes() for p in target.rglob("*") if p.is_file()}
    for gone in (plain_set / "0.png", tmp_path / "mask.png"):
        gone.unlink()
    (target / "1.png").write_bytes(before["1.png"][:60])  # damaged: made again
    write_imagefolder(target, images)
    assert {p.name: p.read_bytes() for p in target.rglob("*") if p.is_file()} == before
    noise(5).save(target / "0.png")  # not the picture of the set
    with pytest.raises(ImageSetError, match=r"0\.png"):
        write_imagefolder(target, images)


def test_many_pictures_are_written_by_several_processes(tmp_path, raw):
    for seed in range(70):
        noise(seed).save(raw / f"{seed:02}.png")
    (raw / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"{n:02}.png", "text": ""}) + "\n" for n in range(70))
    )
    images = ImageSet.read(raw)
    written = write_imagefolder(tmp_path / "set", images)
    assert [p.sha256 for p in written] == [p.sha256 for p in images]
    for seed in (0, 69):
        data = (tmp_path / "set" / f"{seed:02}.png").read_bytes()
        assert data == png_bytes(noise(seed))
    noise(1).save(raw / "69.png")
    with pytest.raises(ImageSetError, match=r"69\.png has changed"):
        write_imagefolder(tmp_path / "other", images)
    assert not (tmp_path / "other").exists()
