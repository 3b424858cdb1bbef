import numpy as np
import pytest
from PIL import Image, ImageDraw

from blockwise_lora.errors import UserError
from blockwise_lora.judges.panel import JudgeConfig, Panel
from blockwise_lora.judges.protocol import BootstrapConfig, evaluate
from blockwise_lora.judges.samples import COPY, REAL, Question, References, Row, Sample
from blockwise_lora.judges.verdict import copying
from blockwise_lora.parameters import typed

SEEDS = (0, 1)


def face(mouth: int, outlined: bool, cat: bool = True) -> Image.Image:
    """A round face with a mouth, with ears or without, filled or drawn in outline."""
    picture = Image.new("RGB", (64, 64), "white")
    draw = ImageDraw.Draw(picture)
    look = {"outline": "black", "width": 2} if outlined else {"fill": (250, 190, 60)}
    if cat:
        draw.polygon([(10, 8), (12, 34), (30, 18)], **look)
        draw.polygon([(54, 8), (52, 34), (34, 18)], **look)
    draw.ellipse((10, 14, 54, 58), **look)
    draw.arc((24, 34 - mouth, 40, 48 - mouth), 0, 60 + 30 * mouth, fill="black", width=2)
    return picture


def noisy(picture: Image.Image, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    pixels = np.asarray(picture) + rng.normal(0, 6, (64, 64, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def panel(judge_folders) -> Panel:
    return Panel.load(JudgeConfig(str(judge_folders["clip"]), str(judge_folders["dino"])))


REFERENCES = References(
    tuple(face(m, outlined=False) for m in (0, 1, 2)),
    tuple(face(m, outlined=True, cat=False) for m in (0, 1, 2)),
)
QUESTIONS = tuple(
    Question(f"cat face {m}", face(m, outlined=True), face(m, outlined=True, cat=False))
    for m in (3, 4, 5)
)


def drawn(row: Row, make) -> list[Sample]:
    return [
        Sample(row, i, seed, noisy(make(i + 3), 10 * i + seed))
        for i in range(len(QUESTIONS))
        for seed in SEEDS
    ]


def samples() -> list[Sample]:
    """The variant `good` draws what is asked for, `lazy` forgets the style when stacked."""
    return [
        *drawn(Row("base"), lambda m: face(m, outlined=False, cat=False)),
        *drawn(Row("good", "character"), lambda m: face(m, outlined=False)),
        *drawn(Row("good", "both"), lambda m: face(m, outlined=True)),
        *drawn(Row("lazy", "both"), lambda m: face(m, outlined=False)),
    ]


@pytest.fixture(scope="module")
def evaluation(panel):
    return evaluate(panel, samples(), QUESTIONS, REFERENCES, BootstrapConfig(draws=500))


def test_the_table_has_methods_and_anchors(evaluation):
    assert [str(row) for row in evaluation.intervals] == [
        "real",
        "real-wrong-expression",
        "real-character",
        "real-style",
        "style-picture",
        "copy",
        "base",
        "good/character",
        "good/both",
        "lazy/both",
    ]
    assert evaluation.variants == ("good", "lazy")
    assert evaluation.intervals[Row("good", "both")]["style"].n == 6
    assert evaluation.intervals[Row(REAL)]["truth"].n == 0


def test_scores_tell_right_from_wrong(evaluation):
    good, lazy = Row("good", "both"), Row("lazy", "both")
    for score in ("style", "truth"):
        assert evaluation.difference(score, good, lazy).low > 0
        swapped = evaluation.difference(score, lazy, good)
        assert swapped.high == -evaluation.difference(score, good, lazy).low
    assert evaluation.difference("truth", good, Row(COPY)).mean > 0


def test_adding_a_variant_changes_nothing_for_the_others(panel, evaluation):
    more = [*samples(), *drawn(Row("third", "both"), lambda m: face(m, outlined=True, cat=False))]
    again = evaluate(panel, more, QUESTIONS, REFERENCES, BootstrapConfig(draws=500))
    for row, scores in evaluation.intervals.items():
        for score, found in scores.items():
            new = again.intervals[row][score]
            assert (new.mean, new.low, new.high) == pytest.approx(
                (found.mean, found.low, found.high), abs=1e-4, nan_ok=True
            )


def test_without_truths_their_rows_and_score_are_gone(panel):
    questions = tuple(Question(q.text) for q in QUESTIONS)
    found = evaluate(panel, samples(), questions, REFERENCES, BootstrapConfig(draws=100))
    names = [str(row) for row in found.intervals]
    assert names[:4] == ["real-character", "real-style", "copy", "base"]
    assert all(scores["truth"].n == 0 for scores in found.intervals.values())
    assert found.intervals[Row("good", "both")]["identity"].n == 6
    assert "true picture" not in copying(found)


def test_a_difference_that_was_not_computed_is_no_zero(evaluation):
    with pytest.raises(KeyError, match="were not compared"):
        evaluation.difference("style", Row("base"), Row("good", "both"))


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"level": 1.0}, {"level": 95.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        typed(BootstrapConfig, wrong)
