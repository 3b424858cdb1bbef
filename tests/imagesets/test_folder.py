import json
import os

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
    for name in names:
        (folder / name).write_text("x")
    listing = list_folder(folder)
    assert [c.file for c in listing.candidates] == ["a.png", "noending", "notes.pdf", "sub/b.JPG"]
    assert listing.others == (".hidden.png", "LICENSE", "README.md", "lonely.txt")
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
