import json

import pytest

from blockwise_lora.sweep.records import to_json, to_rows
from invented_sweep import LOSSES, invented


@pytest.fixture(scope="module")
def outcome():
    return invented()


def test_the_json_is_json_and_has_every_pair(outcome):
    told = json.loads(json.dumps(to_json(outcome), allow_nan=False))
    assert told["best"] == {"character": "mid", "style": "out3"}
    pairs = {(p["character"], p["style"]): p for p in told["pairs"]}
    best = pairs["mid", "out3"]["scores"]
    assert told["best_scores"] == {score: by["mean"] for score, by in best.items()}
    assert len(pairs) == len(LOSSES)
    skipped = pairs["all+mid:0", "all"]
    assert skipped["scores"]["identity"]["mean"] == pytest.approx(0.2, abs=0.02)
    assert skipped["effects"]["identity"]["mean"] == pytest.approx(-0.4, abs=0.02)
    assert skipped["effects"]["identity"]["low"] <= skipped["effects"]["identity"]["mean"]


def test_what_is_not_known_is_null(outcome):
    (agreement,) = to_json(outcome)["agreement"]["style"]
    assert agreement["correlation"] is None and agreement["masks"] == 0


def test_the_table_has_a_flat_row_for_each_pair(outcome):
    rows = to_rows(outcome)
    assert [(r["character_mask"], r["style_mask"]) for r in rows] == [
        (pair.character, pair.style) for pair in LOSSES
    ]
    best = rows[-1]
    assert best["how"] == "trained" and best["frontier"]
    assert best["style_low"] <= best["style"] <= best["style_high"]
