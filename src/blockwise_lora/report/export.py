"""The outcome as plain values: for `evaluation.json` and for the tidy table."""

import math
from typing import Any

from blockwise_lora.judges.bootstrap import Interval
from blockwise_lora.judges.protocol import Evaluation
from blockwise_lora.judges.samples import Row
from blockwise_lora.judges.scores import SCORES
from blockwise_lora.judges.verdict import caveat, copying, gap_closed, headline
from blockwise_lora.parameters import asdict

TABLE_COLUMNS = ("row", "variant", "condition", "score", "mean", "low", "high", "n")


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Everything that was measured, fit for JSON and for `dvc metrics`.

    Numbers stand in mappings, where DVC finds them as `variants.lora.both.identity.mean`; words and
    single pictures stand in lists, which DVC passes over. What does not apply is left out.
    """
    variants: dict[str, Any] = {variant: {} for variant in evaluation.variants}
    anchors: dict[str, Any] = {}
    for row, scores in evaluation.intervals.items():
        place = anchors if row.anchor else variants[row.variant]
        place[row.condition or row.variant] = _filled(scores)
    differences: dict[str, Any] = {}
    for found in evaluation.differences:
        if found.by.n:
            pair = differences.setdefault(f"{found.a.variant}-minus-{found.b.variant}", {})
            pair[found.score] = _numbers(found.by)
    return {
        "variants": variants,
        "anchors": anchors,
        "differences": differences,
        "gap_closed": _gaps(evaluation),
        "verdict": [headline(evaluation), copying(evaluation), caveat(evaluation)],
        "pictures": _pictures(evaluation),
        "bootstrap": [asdict(evaluation.bootstrap)],
    }


def to_table(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One record for each row and score, with `TABLE_COLUMNS`; None where a score is missing."""
    return [
        {"row": str(row), "variant": row.variant, "condition": row.condition, "score": score}
        | {key: _finite(getattr(by, key)) for key in ("mean", "low", "high")}
        | {"n": by.n}
        for row, scores in evaluation.intervals.items()
        for score, by in scores.items()
    ]


def _pictures(evaluation: Evaluation) -> list[dict[str, Any]]:
    judged = evaluation.judged
    return [
        {"row": str(sample.row), "prompt_index": sample.prompt, "seed": sample.seed}
        | {score: _finite(float(judged.values[score][i])) for score in SCORES}
        for i, sample in enumerate(judged.samples)
    ]


def _gaps(evaluation: Evaluation) -> dict[str, Any]:
    """Share of the gap between base and real pictures that each variant closes."""
    gaps: dict[str, Any] = {}
    for row in evaluation.intervals:
        if row.anchor:
            continue
        for score in ("identity", "style"):
            share = gap_closed(evaluation, Row(row.variant, row.condition), score)
            if math.isfinite(share):
                gaps.setdefault(row.variant, {}).setdefault(row.condition, {})[score] = share
    return gaps


def _filled(scores: dict[str, Interval]) -> dict[str, dict[str, float]]:
    return {score: _numbers(by) for score, by in scores.items() if by.n}


def _numbers(by: Interval) -> dict[str, float]:
    return {"mean": by.mean, "low": by.low, "high": by.high}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
