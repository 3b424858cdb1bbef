import re

import pytest

from blockwise_lora.imagesets import ImageSetError
from blockwise_lora.imagesets.review import Review, ReviewRow, read_review


def written(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "review.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_decisions_and_captions(tmp_path):
    text = 'file,note,decision,caption\na.png,x,Keep,"a  cat, asleep"\nsub/b.jpg,,drop,\nc.png,,,\n'
    review = read_review(written(tmp_path, text))
    assert review.of("a.png") == ReviewRow("keep", "a cat, asleep")
    assert review.of("sub/b.jpg") == ReviewRow("drop")
    assert review.of("c.png") == review.of("not there.png") == ReviewRow()
    assert review.unknown(["a.png"]) == ["sub/b.jpg"]


def test_what_spreadsheets_make_of_it(tmp_path):
    review = read_review(written(tmp_path, "file;decision;caption\r\nä.png;drop;\r\n", "utf-8-sig"))
    assert review.of("ä.png").decision == "drop"


def test_no_path_is_no_review():
    assert read_review(None) == read_review("") == Review()


def test_a_file_that_is_not_there_is_no_review_by_mistake(tmp_path):
    with pytest.raises(ImageSetError, match=r"gone\.csv: there is no such review file"):
        read_review(tmp_path / "gone.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,decision\na,keep\n", "no column 'caption'"),
        ("", "no column 'file'"),
        ("file,decision,caption\na.png,maybe,\n", "line 2: decision 'maybe' is unknown"),
        ("file,decision,caption\n,keep,\n", "line 2: no file"),
        ("file,decision,caption\na,keep,\na,drop,\n", "line 3: a has another row; keep one"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(ImageSetError, match=re.escape(message)):
        read_review(written(tmp_path, text))


def test_not_utf8(tmp_path):
    with pytest.raises(ImageSetError, match="save it as UTF-8"):
        read_review(written(tmp_path, "file,decision,caption\né,keep,\n", "latin-1"))


def test_cells_that_were_kept_from_being_formulas(tmp_path):
    text = "file,decision,caption\n'=a.png,keep,'-1\n''@b.png,,'twas\n+c.png,drop,\n"
    assert read_review(written(tmp_path, text)).rows == {
        "=a.png": ReviewRow("keep", "-1"),
        "'@b.png": ReviewRow("", "'twas"),
        "+c.png": ReviewRow("drop"),
    }
