"""Whatever a place is, the same pictures and captions come out of it."""

import io
import json
import os
import tarfile
import zipfile

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from blockwise_lora.imagesets import CaptionRule, CurationConfig, ImageSetError, curate
from blockwise_lora.imagesets.sources import local_folder

RULE = CaptionRule("zkc", "cat face")


@pytest.fixture
def folder(raw, textured):
    (raw / "sub").mkdir()
    textured(0).save(raw / "a.png")
    textured(1).save(raw / "sub" / "b.webp", lossless=True)
    (raw / "a.txt").write_text("grinning")
    (raw / "metadata.jsonl").write_text('{"file_name": "sub/b.webp", "text": "crying"}')
    return raw


def curated(place, cache):
    images, report = curate(place, RULE, CurationConfig(), cache=cache)
    assert not report.dropped
    return {(p.caption, p.sha256) for p in images}


def zipped(folder, path):
    with zipfile.ZipFile(path, "w") as file:
        for member in folder.rglob("*"):
            file.write(member, member.relative_to(folder))
    return path


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
def test_archives(folder, tmp_path, kind):
    path = tmp_path / f"set.{kind}"
    if kind == "zip":
        zipped(folder, path)
    else:
        with tarfile.open(path, f"w:{kind.partition('.')[2]}") as file:
            file.add(folder, ".")
    cache = tmp_path / "cache"
    assert curated(path, cache) == curated(folder, None)
    unpacked = local_folder(path, cache)
    marked = unpacked / "marked"
    marked.touch()
    assert local_folder(path, cache) == unpacked
    assert marked.exists(), "unpacked once only"
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.write(folder / "a.png", "other.png")
    other = local_folder(tmp_path / "set.zip", cache)
    assert [p.name for p in other.iterdir() if p.suffix == ".png"] == ["other.png"]


@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "a/../../evil.png", "C:\\evil.png"])
def test_members_cannot_escape(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr(zipfile.ZipInfo(name), b"x")
    with tarfile.open(tmp_path / "set.tar", "w") as file:
        info = tarfile.TarInfo(name)
        info.size = 1
        file.addfile(info, io.BytesIO(b"x"))
    for place in ("set.zip", "set.tar"):
        with pytest.raises(ImageSetError, match="outside of the folder"):
            local_folder(tmp_path / place, tmp_path / "cache")
    assert not list(tmp_path.rglob("evil*"))


def test_names_in_archives_that_are_not_utf8(folder, tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as file:
        file.add(folder, ".")
        file.add(folder / "a.png", os.fsdecode(b"caf\xe9.png"))
    _, report = curate(tmp_path / "set.tar", RULE, CurationConfig(), cache=tmp_path / "cache")
    assert [(v.file, v.reason) for v in report.dropped] == [("caf\\udce9.png", "misnamed")]


def test_links_in_archives_are_left_out(tmp_path, textured):
    (tmp_path / "secret.png").write_bytes(b"secret")
    with tarfile.open(tmp_path / "set.tar", "w") as file:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"link{kind.decode()}.png")
            info.type, info.linkname = kind, str(tmp_path / "secret.png")
            file.addfile(info)
    folder = local_folder(tmp_path / "set.tar", tmp_path / "cache")
    assert [p.name for p in folder.iterdir()] == [".unpacked.json"]


def test_bombs_are_bounded(tmp_path, monkeypatch):
    from blockwise_lora.imagesets.sources import archives

    monkeypatch.setattr(archives, "_HARMLESS", 1 << 20)
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros.png", bytes(8 << 20))
    with pytest.raises(ImageSetError, match="unpacks to more than"):
        local_folder(tmp_path / "set.zip", tmp_path / "cache")
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_damaged_archives_name_the_remedy(folder, tmp_path):
    data = zipped(folder, tmp_path / "set.zip").read_bytes()
    broken = bytearray(data)
    broken[60:120] = bytes(60)
    (tmp_path / "set.zip").write_bytes(broken)
    with pytest.raises(ImageSetError, match=r"set\.zip .*pack it again|more than|no pictures"):
        local_folder(tmp_path / "set.zip", tmp_path / "cache")


def rows(folder):
    def encoded(path):
        return {"bytes": path.read_bytes(), "path": path.name}

    pictures = [encoded(folder / "a.png"), encoded(folder / "sub" / "b.webp")]
    return {"image": pictures, "text": ["grinning", "crying"], "label": [0, 1]}


def test_parquet(folder, tmp_path):
    table = tmp_path / "tables" / "train-0.parquet"
    table.parent.mkdir()
    pa.parquet.write_table(pa.table(rows(folder)), table)
    for place in (table, table.parent):
        assert curated(place, tmp_path / "cache") == curated(folder, None)


def test_a_folder_that_datasets_saved(folder, tmp_path):
    import datasets

    saved = datasets.Dataset.from_dict(rows(folder)).cast_column("image", datasets.Image())
    saved.save_to_disk(tmp_path / "saved")
    assert curated(tmp_path / "saved", tmp_path / "cache") == curated(folder, None)


def test_tables_read_no_files_from_elsewhere(folder, tmp_path):
    (tmp_path / "tables").mkdir()
    (folder / "a.png").rename(tmp_path / "tables" / "a.png")
    names = ["a.png", "../raw/sub/b.webp", str(folder / "sub" / "b.webp"), None]
    path = tmp_path / "tables" / "t.parquet"
    pa.parquet.write_table(pa.table({"image": names}), path)
    _, report = curate(path, RULE, CurationConfig(), cache=tmp_path / "cache")
    assert [v.reason for v in report.verdicts] == ["", *["not an image"] * 3]


def test_a_table_without_pictures(tmp_path):
    pa.parquet.write_table(pa.table({"photo": [1]}), tmp_path / "t.parquet")
    with pytest.raises(ImageSetError, match="no column `image` among photo; rename it"):
        local_folder(tmp_path / "t.parquet", tmp_path / "cache")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(ImageSetError, match="cannot be read"):
        local_folder(tmp_path / "t.parquet", tmp_path / "cache")


def test_remote_folders_fetch_what_changed(folder, tmp_path, textured):
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/bucket/set", recursive=True)
    place, cache = "memory://bucket/set", tmp_path / "cache"
    assert curated(place, cache) == curated(folder, None)
    copy = local_folder(place, cache)
    (copy / "a.png").write_bytes(b"not fetched again")
    local_folder(place, cache)
    assert (copy / "a.png").read_bytes() == b"not fetched again"
    memory.pipe("/bucket/set/a.png", (folder / "sub" / "b.webp").read_bytes())
    memory.rm("/bucket/set/metadata.jsonl")
    local_folder(place, cache)
    assert (copy / "a.png").read_bytes() == (folder / "sub" / "b.webp").read_bytes()
    assert not (copy / "metadata.jsonl").exists()
    memory.put(str(zipped(folder, tmp_path / "set.zip")), "/bucket/set.zip")
    assert curated("memory://bucket/set.zip", cache) == curated(folder, None)


@pytest.mark.parametrize("place", ["memory://nothing/here", "nonsense://bucket"])
def test_remote_places_that_are_not_there(tmp_path, place):
    with pytest.raises(ImageSetError, match=place.partition(":")[0]):
        local_folder(place, tmp_path / "cache")


def test_copies_need_a_cache(folder, tmp_path):
    with pytest.raises(ImageSetError, match="pass a cache folder"):
        local_folder(zipped(folder, tmp_path / "set.zip"))


def test_kohya_folders(raw, textured):
    for number, name in enumerate(("10_zkc cat", "3_zkc cat", "plain", "2020 holiday")):
        (raw / name).mkdir()
        textured(number).save(raw / name / "a.png")
        (raw / name / "a.caption").write_text(f"caption {number}")
    images, report = curate(raw, RULE, CurationConfig())
    assert {p.source: p.repeats for p in images} == {
        "10_zkc cat/a.png": 10,
        "3_zkc cat/a.png": 3,
        "plain/a.png": 1,
        "2020 holiday/a.png": 1,
    }
    assert report.summary()["shown_in_a_pass"] == 15
    (raw / "plain" / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "repeats": 4}))
    images, _ = curate(raw, RULE, CurationConfig())
    assert images.find("plain/a.png").repeats == 4


def test_heic(raw, textured):
    import pillow_heif

    pillow_heif.from_pillow(textured(0)).save(raw / "a.heic", quality=90)
    images, report = curate(raw, RULE, CurationConfig())
    assert report.verdicts[0].format == "HEIF"
    assert images[0].open().size == (64, 64)
    assert Image.open(raw / "a.heic").size == (64, 64)
