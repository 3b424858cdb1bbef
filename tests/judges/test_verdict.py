import numpy as np
import pytest
from PIL import Image

from blockwise_lora.judges.protocol import BootstrapConfig, Evaluation, summarise
from blockwise_lora.judges.samples import COPY, REAL, Row, Sample
from blockwise_lora.judges.scores import SCORES, Judged, Scale
from blockwise_lora.judges.verdict import caveat, copying, gap_closed, headline, winner

BLANK = Image.new("RGB", (1, 1))
SPREAD = np.random.default_rng(0).normal(0, 0.05, (5, 4))
SPREAD -= SPREAD.mean()


def outcome(real: float = 1.0, **means: float) -> Evaluation:
    """An evaluation in which each variant has one mean on every score, with noise of its own."""
    samples, values = [], []
    for k, (variant, mean) in enumerate(means.items()):
        anchors = {COPY: Row(COPY), "real_pictures": Row(REAL)}
        row = anchors.get(variant) or Row(variant, "both")
        for p in range(5):
            for s in range(4):
                samples.append(Sample(row, p, s, BLANK))
                values.append(mean + np.roll(SPREAD, k)[p, s])
    table = np.array(values) if real else np.full(len(values), np.nan)
    scales = {name: Scale(0.0, real) for name in ("identity", "style")}
    judged = Judged(tuple(samples), dict.fromkeys(SCORES, table), scales)
    return summarise(judged, BootstrapConfig(draws=500))


def test_a_clear_lead_is_told_with_its_interval():
    found = outcome(lora=0.3, blockwise=0.6)
    assert winner(found, "combined") == Row("blockwise", "both")
    sentence = headline(found)
    assert sentence.startswith("blockwise combines best: 0.")
    assert ", 0.30" in sentence
    assert sentence.endswith("above lora.")


def test_no_winner_within_the_interval():
    found = outcome(lora=0.5, blockwise=0.505, locon=0.1)
    assert winner(found, "combined") is None
    sentence = headline(found)
    assert sentence.startswith("No clear winner")
    assert "its lead over lora is within the interval" in sentence


def test_one_variant_has_nothing_to_be_compared_with():
    assert headline(outcome(lora=0.5)).endswith("there is nothing to compare.")


def test_no_scale_is_no_answer():
    assert headline(outcome(real=0.0, lora=0.5, locon=0.4)).startswith("No answer")


def test_beating_copying_is_told_by_name():
    text = copying(outcome(lora=0.3, blockwise=0.6, copy=0.4))
    assert "On identity and style together, blockwise (+0.20" in text
    assert "beats copying" in text


def test_not_beating_copying_is_told_as_well():
    text = copying(outcome(lora=0.1, blockwise=0.405, copy=0.4))
    assert "no variant beats copying the nearest training picture; lora does worse." in text


def test_copying_that_was_not_measured_is_not_judged():
    assert copying(outcome(lora=0.1)).startswith("Copying could not be compared")


def test_a_score_above_the_true_pictures_is_questioned():
    assert "reach only 0.3" in caveat(outcome(lora=0.5, real_pictures=0.3))
    assert caveat(outcome(lora=0.5, real_pictures=0.9)) == ""
    assert caveat(outcome(lora=0.5)) == ""
    assert caveat(outcome(real=0.0, lora=0.5, real_pictures=0.3)) == ""


def test_the_gap_is_measured_from_base_to_real():
    assert gap_closed(outcome(lora=0.5, real=2.0), Row("lora", "both"), "style") == pytest.approx(
        0.25, abs=0.02
    )
    assert np.isnan(gap_closed(outcome(real=0.0, lora=0.5), Row("lora", "both"), "style"))
