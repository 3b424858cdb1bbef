import csv

from blockwise_lora.imagesets.captioning import Captioner, CaptionRow, CaptionRule, CaptionTable
from blockwise_lora.imagesets.captioning.concept import ConceptTag
from blockwise_lora.imagesets.captioning.sources.beside import Beside
from blockwise_lora.imagesets.review import Review, ReviewRow, read_review

ROWS = (
    CaptionRow("a.png", "sidecar", "cat face, grinning", "zkc, grinning", ("cat face",), 5),
    CaptionRow("b, c.png", "", "", ""),
)


def test_summary():
    tag = ConceptTag("cat face", 1.0, None, None, True, "in 1 of 1 captions")
    summary = CaptionTable(ROWS, (tag,), removed=True).summary()
    assert summary["distinct_captions"] == 1
    assert summary["most_tokens"] == 5
    assert summary["concept_tags"][0]["tag"] == "cat face"
    assert summary["concept_tags_removed"] is True
    assert CaptionTable(()).summary()["most_tokens"] is None


def test_an_edited_copy_is_read_back_and_wins(tmp_path, subject):
    captioner = Captioner(CaptionRule("zkc", "cat face"), (Beside("sidecar"),))
    pictures = [subject("a.png", sidecar="cat face, grinning"), subject("b, c.png", sidecar="x")]
    records = captioner(pictures).records(Review())
    assert [(r["source"], r["before"], r["after"]) for r in records] == [
        ("sidecar", "cat face, grinning", "zkc cat face, grinning"),
        ("sidecar", "x", "zkc x"),
    ]
    records[1]["caption"] = 'zkc, with "marks", commas'
    file = tmp_path / "review.csv"
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, records[0])
        writer.writeheader()
        writer.writerows(records)
    review = read_review(file)
    edited = {name: row.caption for name, row in review.rows.items()}
    for _ in range(2):  # and again, in the next run
        table = captioner(pictures, review=edited)
        assert table.of("a.png").source == "sidecar"
        assert table.of("b, c.png").source == "review"
        assert table.of("b, c.png").after == 'zkc, with "marks", commas'
        # A new copy of the table holds what was written into the old one.
        assert [r["caption"] for r in table.records(review)] == ["", 'zkc, with "marks", commas']


def test_what_a_review_says_of_any_picture_is_in_the_table_again():
    rows = {
        "a.png": ReviewRow("keep"),
        "aa.png": ReviewRow("drop", "a cat"),  # dropped, so without a caption
        "c.png": ReviewRow(),  # nothing is said of it
    }
    records = CaptionTable(ROWS).records(Review(rows))
    assert [(r["file"], r["decision"], r["caption"]) for r in records] == [
        ("a.png", "keep", ""),
        ("aa.png", "drop", "a cat"),
        ("b, c.png", "", ""),
    ]
    assert records[1]["source"] == records[1]["after"] == ""
    assert records[1]["tokens"] is None
