import json
import os
import unicodedata

import pytest
from PIL import Image

from blockwise_lora.imagesets import ImageSetError
from blockwise_lora.imagesets.folder import CaptionError, list_folder


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.JPG"):
        Image.new("RGB", (8, 8)).save(tmp_path / "set" / name)
    return tmp_path / "set"


def texts_of(folder):
    return list_folder(folder).candidates[0].texts()


def test_everything_in_the_folder_is_accounted_for(folder):
    names = [".hidden.png", "README.md", "LICENSE", "a.txt", "lonely.txt", "notes.pdf", "noending"]
    names.append("review.csv")
    for name in names:
        (folder / name).write_text("x")
    listing = list_folder(folder)
    assert [c.file for c in listing.candidates] == ["a.png", "noending", "notes.pdf", "sub/b.JPG"]
    assert listing.others == (".hidden.png", "LICENSE", "README.md", "lonely.txt", "review.csv")
    assert listing.lonely_captions == ("lonely.txt",)


def test_texts_beside_a_picture(folder):
    assert texts_of(folder) == {}
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "from metadata"}')
    assert texts_of(folder) == {"metadata": "from metadata"}
    (folder / "a.caption").write_text("from caption")
    assert texts_of(folder) == {"sidecar": "from caption", "metadata": "from metadata"}
    (folder / "a.txt").write_text(" from\n txt ")
    assert texts_of(folder)["sidecar"] == "from txt"
    (folder / "a.txt").write_text(" \n")  # empty: the next file has its turn
    assert texts_of(folder)["sidecar"] == "from caption"


def test_metadata_of_a_sub_folder_and_both_kinds(folder):
    (folder / "sub" / "metadata.csv").write_text("file_name,text\nb.JPG,csv\nc.png,gone\n")
    (folder / "metadata.jsonl").write_text('{"file_name": "./sub/b.JPG", "text": "jsonl"}')
    listing = list_folder(folder)
    assert listing.candidates[1].texts() == {"metadata": "jsonl"}
    assert [row.file_name for row in listing.missing] == ["c.png"]
    assert listing.others == ()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_leave_no_doubt(folder, encoding):
    (folder / "a.txt").write_bytes("été 猫".encode(encoding))
    assert texts_of(folder) == {"sidecar": "été 猫"}


def test_other_encodings_are_named(folder):
    (folder / "a.txt").write_bytes("chat, été".encode("latin-1"))
    with pytest.raises(CaptionError, match=r"a\.txt is not UTF-8 \(byte 0xe9 at position 6\)"):
        texts_of(folder)
    (folder / "a.txt").write_bytes(b"a\0b")
    with pytest.raises(CaptionError, match=r"a\.txt is no text file"):
        texts_of(folder)


def test_links_are_followed_once(folder):
    (folder / "loop").symlink_to(folder)
    (folder / "gone.png").symlink_to(folder / "nothing.png")
    assert [c.file for c in list_folder(folder).candidates] == ["a.png", "gone.png", "sub/b.JPG"]


def test_a_pipe_does_not_block(folder):
    os.mkfifo(folder / "pipe.png")
    listing = list_folder(folder)
    assert [c.file for c in listing.candidates] == ["a.png", "sub/b.JPG"]
    assert listing.others == ("pipe.png",)


def test_what_is_no_folder(folder):
    with pytest.raises(ImageSetError, match=r"nowhere: no such folder .*; correct the path"):
        list_folder(folder / "nowhere")
    with pytest.raises(ImageSetError, match=r"a\.png is a file; name the folder"):
        list_folder(folder / "a.png")


def test_metadata_may_not_lead_out(folder):
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "../x.png"}))
    with pytest.raises(ImageSetError, match="leads out of the folder"):
        list_folder(folder)


def described(folder, *names):
    rows = [json.dumps({"file_name": name, "text": f"text of {name}"}) for name in names]
    (folder / "metadata.jsonl").write_text("\n".join(rows), encoding="utf-8")
    listing = list_folder(folder)
    captions = {c.file: c.texts().get("metadata") for c in listing.candidates}
    return captions, [row.file_name for row in listing.missing]


def test_rows_whose_names_differ_in_case_or_form(folder):
    composed = "Café.PNG"
    file = unicodedata.normalize("NFD", "café.png")  # as macOS may write it
    assert file != "café.png"
    (folder / file).write_bytes(b"x")
    captions, missing = described(folder, composed, "A.PNG", "Sub/B.jpg", "gone.png")
    assert captions == {
        "a.png": "text of A.PNG",
        file: "text of Café.PNG",
        "sub/b.JPG": "text of Sub/B.jpg",
    }
    assert missing == ["gone.png"]


def test_rows_that_may_mean_several_pictures_are_missing(folder):
    for name in ("B.png", "b.PNG"):
        (folder / name).write_bytes(b"x")
    assert described(folder, "a.png", "A.png", "b.png", "SUB/b.jpg", "sub/B.jpg") == (
        {"B.png": None, "a.png": "text of a.png", "b.PNG": None, "sub/b.JPG": None},
        ["A.png", "b.png", "SUB/b.jpg", "sub/B.jpg"],
    )


def test_rows_of_files_that_are_not_looked_at_are_missing(folder):
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "a.png").write_bytes(b"x")
    assert described(folder, ".hidden/a.png")[1] == [".hidden/a.png"]


def test_names_that_are_not_utf8(folder):
    (folder / os.fsdecode(b"d\xe9")).mkdir()
    for name in (b"caf\xe9.jpg", b"caf\xe9.txt", b"d\xe9/a.png", b"d\xe9/metadata.jsonl"):
        (folder / os.fsdecode(name)).write_bytes(b"x")
    listing = list_folder(folder)
    assert [c.file for c in listing.candidates] == ["a.png", "sub/b.JPG"]
    assert listing.misnamed == ("caf\\udce9.jpg", "d\\udce9/a.png")
    assert listing.others == ("caf\\udce9.txt", "d\\udce9/metadata.jsonl")
