import numpy as np
import pytest
from PIL import Image

from blockwise_lora.judges.bootstrap import Scores
from blockwise_lora.judges.panel import Views, fingerprint
from blockwise_lora.judges.samples import (
    BASE,
    COPY,
    REAL,
    REAL_CHARACTER,
    REAL_STYLE,
    STYLE_PICTURE,
    WRONG_EXPRESSION,
    Question,
    References,
    Row,
    Sample,
    copy_samples,
    real_samples,
    style_picture_samples,
)
from blockwise_lora.judges.scores import Scale, harmonic_mean, score_samples
from blockwise_lora.judges.style import LEVELS
from blockwise_lora.judges.weights import JudgeError


def blank(level: int) -> Image.Image:
    return Image.new("RGB", (2, 2), (level, level, level))


def direction(degrees: float) -> list[float]:
    return [np.cos(np.radians(degrees)), np.sin(np.radians(degrees))]


def views_of(angles: dict[int, float]) -> Views:
    """Views of blank pictures by level; every judge sees the given angle in degrees."""
    vectors = np.array([direction(a) for a in angles.values()], dtype=np.float32)
    rows = {fingerprint(blank(level)): i for i, level in enumerate(angles)}
    palettes = np.full((len(vectors), LEVELS**3), LEVELS**-1.5)
    return Views(rows, vectors, vectors, np.hstack([vectors, palettes]))


# Character pictures 1, 2 at 0 and 60 degrees; style pictures 3, 4; truths 5, 6; drawn 7; base 8.
VIEWS = views_of({1: 0, 2: 60, 3: 90, 4: 90, 5: 30, 6: 40, 7: 0, 8: 180})
REFERENCES = References((blank(1), blank(2)), (blank(3), blank(4)))
QUESTIONS = (Question("one", blank(5), blank(3)), Question("two", blank(6)), Question("three"))
TEXTS = np.array([direction(a) for a in (0, 90, 0)], dtype=np.float32)
DRAWN = Sample(Row("lora", "both"), 0, 0, blank(7))


def judged(*samples: Sample):
    return score_samples(samples, QUESTIONS, REFERENCES, VIEWS, TEXTS)


def test_identity_is_the_mean_cosine_to_the_training_pictures():
    assert judged(DRAWN).values["identity"] == pytest.approx((1 + 0.5) / 2)


def test_a_picture_is_never_compared_with_itself():
    copied = Sample(Row(COPY), 0, 0, blank(1))
    assert judged(copied).values["identity"] == pytest.approx(0.5)
    true = Sample(Row(REAL), 0, 0, blank(5))
    assert np.isnan(judged(true).values["truth"])


def test_a_single_reference_that_is_the_picture_itself_leaves_nothing():
    alone = References((blank(1),), REFERENCES.style)
    sample = Sample(Row(REAL_CHARACTER), 0, 0, blank(1), prompted=False)
    values = score_samples([sample], QUESTIONS, alone, VIEWS, TEXTS).values
    assert np.isnan(values["identity"][0])


def test_prompt_and_truth_follow_the_samples_own_prompt():
    other = Sample(Row("lora", "both"), 1, 0, blank(7))
    third = Sample(Row("lora", "both"), 2, 0, blank(7))
    values = judged(DRAWN, other, third).values
    assert values["prompt"] == pytest.approx([1, 0, 1], abs=1e-6)
    assert values["truth"][:2] == pytest.approx(np.cos(np.radians([30, 40])))
    assert np.isnan(values["truth"][2])


def test_real_pictures_without_prompts_have_no_prompt_score():
    sample = Sample(Row(REAL_STYLE), 0, 0, blank(3), prompted=False)
    assert np.isnan(judged(sample).values["prompt"][0])


def test_combined_is_zero_for_base_and_one_for_real_pictures():
    assert Scale(0.2, 0.6)(np.array([0.2, 0.6, 0.4])) == pytest.approx([0, 1, 0.5])
    assert np.isnan(Scale(0.6, 0.2)(np.array([0.5]))).all()
    assert np.isnan(Scale(float("nan"), 0.2)(np.array([0.5]))).all()


def test_half_right_is_no_combination():
    values = harmonic_mean(np.array([1, 1, 0.5, -3.0]), np.array([1, 0, 0.5, 1]))
    assert values == pytest.approx([1, 0, 0.5, 0])
    assert np.isnan(harmonic_mean(np.array([np.nan]), np.array([1.0]))).all()


def test_a_gap_within_its_error_is_no_scale():
    assert np.isnan(Scale(0.2, 0.3, error=0.06)(np.array([0.25])))
    assert Scale(0.2, 0.3, error=0.04)(np.array([0.25])) == pytest.approx(0.5)


def test_scales_run_from_base_to_what_was_learned():
    base = Sample(Row(BASE), 0, 0, blank(8))
    found = judged(*real_samples(QUESTIONS, REFERENCES), base, DRAWN)
    # Each training picture is compared with the other one, 60 degrees away; base with both.
    assert found.scales["identity"].real == pytest.approx(0.5)
    assert found.scales["identity"].base == pytest.approx((-1 - 0.5) / 2)
    assert found.scales["style"].real == pytest.approx(1)
    assert found.scales["identity"].error == pytest.approx(0, abs=1e-6)


def test_real_rows_are_true_pictures_and_what_was_learned():
    samples = real_samples(QUESTIONS, REFERENCES)
    assert [(str(s.row), s.prompt, s.seed) for s in samples if s.prompted] == [
        (REAL, 0, 0),
        (REAL, 1, 0),
        (WRONG_EXPRESSION, 0, 1),
        (WRONG_EXPRESSION, 1, 0),
    ]
    learned = [REAL_CHARACTER] * 2 + [REAL_STYLE] * 2
    assert [str(s.row) for s in samples if not s.prompted] == learned


def test_without_truths_only_what_was_learned_is_real():
    samples = real_samples([Question("one")], REFERENCES)
    assert {str(s.row) for s in samples} == {REAL_CHARACTER, REAL_STYLE}


def test_the_copyist_takes_the_training_picture_nearest_to_the_truth():
    copies = copy_samples(QUESTIONS, REFERENCES, [], VIEWS)
    # 30 degrees lies as near to 0 as to 60, 40 degrees nearer to 60; the third has no answer.
    assert [(c.prompt, str(c.row)) for c in copies] == [(0, COPY), (1, COPY)]
    assert fingerprint(copies[1].picture) == fingerprint(blank(2))


def test_without_truth_the_copyist_follows_what_was_drawn():
    drawn = [
        Sample(Row("lora", "both"), 0, 0, blank(7)),
        Sample(Row("lora", "style"), 0, 0, blank(3)),
    ]
    (copied,) = copy_samples([Question("one")], REFERENCES, drawn, VIEWS)
    assert fingerprint(copied.picture) == fingerprint(blank(1))


def test_the_style_picture_is_a_row_where_it_is_named():
    assert [(str(s.row), s.prompt) for s in style_picture_samples(QUESTIONS)] == [
        (STYLE_PICTURE, 0)
    ]


def test_scores_of_a_row_are_ordered_by_prompt_and_seed():
    samples = [Sample(Row("lora", "both"), p, s, blank(7)) for p, s in [(1, 4), (0, 4), (0, 2)]]
    scores = judged(*samples).scores(Row("lora", "both"), "prompt")
    assert (scores.prompts, scores.seeds) == ((0, 1), (2, 4))
    assert np.isnan(scores.values[1, 0])
    assert scores.values[1, 1] == pytest.approx(0, abs=1e-6)


def test_prompts_with_seeds_of_their_own_share_columns():
    """No column is half empty, and rows that were given the same seeds are paired."""

    def row(name: str, pictures: dict) -> Scores:
        drawn = [Sample(Row(name, "both"), p, s, blank(7)) for p, s in pictures]
        return judged(*drawn).scores(Row(name, "both"), "prompt")

    a, b = (row(name, [(0, 2), (0, 4), (1, 6), (1, 8)]) for name in "ab")
    assert a.seeds == ((2, 6), (4, 8)) and a.values.shape == (2, 2)
    assert not np.isnan(a.values).any() and (a - b).seeds == a.seeds
    other = row("c", [(0, 2), (0, 4), (1, 6), (1, 10)])
    assert (a - other).values.shape == (2, 1), "other noise: means are compared"


@pytest.mark.parametrize("missing", ["character", "style"])
def test_missing_references_are_an_error(missing):
    groups = {"character": (blank(1),), "style": (blank(2),)} | {missing: ()}
    with pytest.raises(JudgeError, match=f"no {missing} pictures to compare with"):
        References(**groups)
