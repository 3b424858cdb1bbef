import json
import re

import pytest

from blockwise_lora.imagesets import ImageSetError
from blockwise_lora.imagesets.metadata import read_metadata


def metadata(folder, *lines, name="metadata.jsonl"):
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text("\n".join(lines), encoding="utf-8", newline="")
    return file


def test_rows_and_captions(tmp_path):
    file = metadata(
        tmp_path,
        '\ufeff{"file_name": "sub/a.png", "text": " a  cat\\n"}',
        "",
        json.dumps({"file_name": "b.png", "caption": "line\u2028separator"}, ensure_ascii=False),
        '{"file_name": "c.png", "text": null, "source": "x"}',
    )
    rows = read_metadata(file)
    assert [row.caption for row in rows] == ["a cat", "line separator", ""]
    assert rows[0].path == tmp_path / "sub" / "a.png"
    assert rows[1].where.endswith("metadata.jsonl, line 3")
    assert rows[2].values["source"] == "x"


def test_csv(tmp_path):
    lines = ["file_name,text", 'a.png,"cat face, grinning"', "b.png"]
    rows = read_metadata(metadata(tmp_path, *lines, name="metadata.csv"))
    assert [(row.file_name, row.caption) for row in rows] == [
        ("a.png", "cat face, grinning"),
        ("b.png", ""),
    ]


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "a/../../b.png", "C:\\x.png", "..\\x.png", "\\\\h\\x"]
)
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    file = metadata(tmp_path / "set", json.dumps({"file_name": name}))
    with pytest.raises(ImageSetError, match=r"line 1: file_name .* leads out of the folder"):
        read_metadata(file)


def test_links_that_leave_the_folder_are_refused(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    file = metadata(tmp_path / "set", '{"file_name": "a.png"}')
    (tmp_path / "set" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ImageSetError, match=r"a\.png is a link out of the folder"):
        read_metadata(file)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"file_name": "a.png"}', "{oops"], "line 2: not JSON"),
        (["[1]"], "line 1: expected an object"),
        (['{"text": "no name"}'], "line 1: no `file_name`"),
        (['{"file_name": 7}'], "line 1: no `file_name`"),
        (['{"file_name": "a"}', '{"file_name": "a"}'], "line 2: a has a row already, line 1"),
        (["[" * 100_000], "line 1: not JSON"),
        (['{"file_name": "a", "text": "\\ud83d"}'], r"line 1: '\ud83d' is half a character"),
    ],
)
def test_malformed_lines_are_named(tmp_path, lines, message):
    with pytest.raises(ImageSetError, match=re.escape(message)):
        read_metadata(metadata(tmp_path, *lines))


def test_not_utf8(tmp_path):
    file = tmp_path / "metadata.jsonl"
    file.write_bytes('{"file_name": "a.png", "text": "été"}'.encode("latin-1"))
    with pytest.raises(ImageSetError, match="not UTF-8 \\(byte 0xe9 at position 32\\); save it as"):
        read_metadata(file)
