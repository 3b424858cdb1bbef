"""A set behind an S3 address, asked for from a real server of the protocol on this machine."""

import pytest

from blockwise_lora.imagesets import CaptionRule, CurationConfig, ImageSetError, curate
from blockwise_lora.imagesets.sources import local_folder, remote

RULE = CaptionRule("zkc", "cat face")


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(remote, "_AT_ONCE", 2)


def curated(place, cache):
    images, report = curate(place, RULE, CurationConfig(), cache=cache)
    assert not report.dropped
    return {(p.caption, p.sha256, p.source) for p in images}


def test_a_set_is_read_and_only_what_changed_is_fetched_again(bucket, raw, textured, tmp_path):
    (raw / "sub folder").mkdir()
    for seed, name in enumerate(("a.png", "b.png", "sub folder/été.png")):
        textured(seed).save(raw / name)
    (raw / "a.txt").write_text("grinning")
    bucket.put(str(raw), "bucket/set", recursive=True)
    bucket.call_s3("put_object", Bucket="bucket", Key="set/empty/", Body=b"")  # a console's folder
    place, cache = "s3://bucket/set", tmp_path / "cache"
    assert curated(place, cache) == curated(raw, None)
    copy = local_folder(place, cache)
    (copy / "b.png").write_bytes(b"not fetched again")
    textured(7).save(raw / "a.png")
    bucket.put(str(raw / "a.png"), "bucket/set/a.png")
    bucket.rm("bucket/set/a.txt")
    local_folder(place, cache)
    assert (copy / "b.png").read_bytes() == b"not fetched again"
    assert (copy / "a.png").read_bytes() == (raw / "a.png").read_bytes()
    assert not (copy / "a.txt").exists()


def test_what_was_fetched_before_the_line_broke_stays(bucket, raw, textured, tmp_path, monkeypatch):
    for seed in range(5):
        textured(seed).save(raw / f"{seed}.png")
    bucket.put(str(raw), "bucket/set", recursive=True)
    place, cache, asked = "s3://bucket/set", tmp_path / "cache", []
    real = remote._copy

    def counted(system, files, address):
        asked.extend(path.rpartition("/")[2] for path in files)
        if len(asked) == 4:
            files = {**files, "bucket/set/gone.png": next(iter(files.values())).parent / "x"}
        real(system, files, address)

    monkeypatch.setattr(remote, "_copy", counted)
    with pytest.raises(ImageSetError, match=r"s3://bucket/set cannot be copied \(.*start again"):
        local_folder(place, cache)
    assert asked == ["0.png", "1.png", "2.png", "3.png"]
    asked.clear()
    copy = local_folder(place, cache)
    assert asked == ["2.png", "3.png", "4.png"]
    assert sorted(p.name for p in copy.glob("*")) == [
        ".fetched.json",
        *(f"{n}.png" for n in range(5)),
    ]


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("s3://bucket/nothing", "nothing in it; correct the address"),
        ("s3://no-such-bucket/set", "bucket does not exist.*check address"),
    ],
)
def test_what_is_not_there(bucket, tmp_path, place, words):
    with pytest.raises(ImageSetError, match=words):
        local_folder(place, tmp_path / "cache")


def test_missing_credentials_name_the_remedy(bucket, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    type(bucket).clear_instance_cache()
    with pytest.raises(ImageSetError, match="check address and credentials"):
        local_folder("s3://bucket/set", tmp_path / "cache")
