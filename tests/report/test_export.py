import json

import pytest
from dvc.repo.metrics.show import _extract_metrics

from blockwise_lora.judges.samples import Row
from blockwise_lora.report.export import TABLE_COLUMNS, to_json, to_table


def test_json_has_a_number_for_each_score_and_no_nan(evaluation):
    found = json.loads(json.dumps(to_json(evaluation), allow_nan=False))
    both = found["variants"]["blockwise"]["both"]
    assert both["identity"]["mean"] == pytest.approx(0.8, abs=0.03)
    assert both["identity"]["low"] < both["identity"]["mean"] < both["identity"]["high"]
    assert "truth" not in found["anchors"]["real"]
    assert found["differences"]["lora-minus-blockwise"]["style"]["high"] < 0
    assert found["gap_closed"]["lora"]["character"]["identity"] == pytest.approx(3 / 7, abs=0.05)


def test_dvc_sees_the_numbers_and_only_those(evaluation):
    def leaves(tree):
        for value in tree.values():
            yield from leaves(value) if isinstance(value, dict) else [value]

    shown = _extract_metrics(to_json(evaluation), "evaluation.json")
    assert set(shown) == {"variants", "anchors", "differences", "gap_closed"}
    assert all(isinstance(value, float) for value in leaves(shown))


def test_json_is_enough_to_compute_the_means_again(evaluation):
    pictures = [p for p in to_json(evaluation)["pictures"] if p["row"] == "lora/both"]
    assert {(p["prompt_index"], p["seed"]) for p in pictures} == {
        (p, s) for p in range(4) for s in range(3)
    }
    mean = sum(p["style"] for p in pictures) / len(pictures)
    assert mean == pytest.approx(evaluation.intervals[Row("lora", "both")]["style"].mean)


def test_the_table_is_tidy(evaluation):
    table = to_table(evaluation)
    assert all(tuple(record) == TABLE_COLUMNS for record in table)
    assert len({(record["row"], record["score"]) for record in table}) == len(table)
    (real,) = (r for r in table if (r["row"], r["score"]) == ("real", "truth"))
    assert (real["mean"], real["n"]) == (None, 0)
