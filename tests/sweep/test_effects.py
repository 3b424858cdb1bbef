import numpy as np
import pytest
from PIL import Image

from blockwise_lora.judges.bootstrap import Interval
from blockwise_lora.judges.protocol import BootstrapConfig
from blockwise_lora.judges.samples import Row, Sample
from blockwise_lora.judges.scores import Judged, Scale
from blockwise_lora.sweep.effects import agreement, effects, spearman

FULL, SKIPPED = Row("all / all", "both"), Row("all+mid:0 / all", "both")


def judged() -> Judged:
    """Two prompts, two seeds; skipping takes 0.2 off identity, which spans 0.1 to 0.5."""
    picture = Image.new("RGB", (1, 1))
    samples = [
        Sample(row, p, s, picture) for row in (FULL, SKIPPED) for p in (0, 1) for s in (0, 1)
    ]
    identity = np.array([0.4, 0.5, 0.3, 0.4, 0.2, 0.3, 0.1, 0.2])
    flat = np.zeros(8)
    values = {"identity": identity, "style": flat, "prompt": flat + np.arange(8) // 4}
    return Judged(tuple(samples), values, {"identity": Scale(0.1, 0.5), "style": Scale(0.0, 1.0)})


def test_an_effect_is_paired_and_in_units_of_the_gap():
    found = effects(judged(), [SKIPPED], FULL, BootstrapConfig())[SKIPPED]
    assert found["identity"].mean == pytest.approx(-0.5)
    # The same at every prompt and seed, so the noise of the scores themselves must cancel out.
    assert found["identity"].low == pytest.approx(-0.5)
    assert found["identity"].high == pytest.approx(-0.5)
    assert found["prompt"].mean == 1.0  # no scale: as it is


def test_spearman_by_hand():
    assert spearman(np.array([1.0, 2, 3, 4]), np.array([10.0, 20, 30, 25])) == pytest.approx(0.8)
    assert spearman(np.array([1.0, 2, 3]), np.array([9.0, 4, 1])) == pytest.approx(-1)
    # Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
    assert spearman(np.array([1.0, 2, 2, 3]), np.arange(4.0)) == pytest.approx(4.5 / 22.5**0.5)
    assert np.isnan(spearman(np.array([1.0, 2]), np.array([1.0, 2])))
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


def test_a_contradiction_needs_both_outside_chance_and_large_enough_to_matter():
    trained = {
        "in0": Interval(-0.3, -0.4, -0.2, 8),
        "in1": Interval(-0.3, -0.4, -0.2, 8),
        "mid": Interval(0.1, 0.05, 0.2, 8),
        "out3": Interval(-0.3, -0.4, -0.2, 8),
        "only here": Interval(1.0, 0.9, 1.1, 8),
    }
    ablated = {
        "in0": Interval(0.2, 0.1, 0.3, 8),
        "in1": Interval(0.2, -0.1, 0.3, 8),
        "mid": Interval(0.3, 0.1, 0.4, 8),
        "out3": Interval(0.019, 0.018, 0.02, 8),
    }
    found = agreement("identity", trained, ablated)
    assert (found.n, found.contradicted) == (4, ("in0",))
    assert agreement("identity", trained, ablated, 0.01).contradicted == ("in0", "out3")
    assert agreement("identity", trained, ablated, 0.25).contradicted == ()
