"""The outcome in words: what the intervals allow to be said, and no more."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from blockwise_lora.judges.bootstrap import Interval
from blockwise_lora.judges.protocol import Evaluation
from blockwise_lora.judges.samples import COPY, REAL, Row

WORDS = {
    "combined": "identity and style together",
    "identity": "identity",
    "style": "style",
    "prompt": "the prompt",
    "truth": "nearness to the true picture",
}
AS_IT_IS: Mapping[str, str] = MappingProxyType({})


def ranked(evaluation: Evaluation, score: str) -> list[Row]:
    """Rows with both adapters that have the score, best mean first."""
    rows = [Row(variant, "both") for variant in evaluation.variants]
    known = [r for r in rows if r in evaluation.intervals and evaluation.intervals[r][score].n]
    return sorted(known, key=lambda row: -evaluation.intervals[row][score].mean)


def winner(evaluation: Evaluation, score: str) -> Row | None:
    """The row ahead of every other variant beyond the interval of the difference, if any."""
    rows = ranked(evaluation, score)
    if len(rows) < 2:
        return None
    ahead = (evaluation.difference(score, rows[0], other).low > 0 for other in rows[1:])
    return rows[0] if all(ahead) else None


def headline(evaluation: Evaluation, names: Mapping[str, str] = AS_IT_IS) -> str:
    """Which variant combines identity and style best, in one sentence.

    Args:
        evaluation: the outcome.
        names: how variants are called; a variant that is missing here goes by its own name.
    """

    def name(row: Row) -> str:
        return names.get(row.variant, row.variant)

    score = "combined" if ranked(evaluation, "combined") else "truth"
    rows = ranked(evaluation, score)
    if not rows:
        return (
            "No answer: real pictures do not score clearly above base pictures, so there is no "
            "scale to measure the combinations on."
        )
    best, words = rows[0], WORDS[score]
    mean = evaluation.intervals[best][score]
    if len(rows) == 1:
        return f"{name(best)} reaches {_range(mean)} on {words}; there is nothing to compare."
    gap = evaluation.difference(score, best, rows[1])
    if winner(evaluation, score):
        return (
            f"{name(best)} combines best: {_range(mean)} on {words}, "
            f"{_range(gap)} above {name(rows[1])}."
        )
    tied = [name(r) for r in rows[1:] if not evaluation.difference(score, best, r).low > 0]
    return (
        f"No clear winner on {words}: {name(best)} has the highest mean ({_range(mean)}), but "
        f"its lead over {_listed(tied)} is within the interval "
        f"({name(rows[1])}: {_range(gap, signed=True)})."
    )


def copying(evaluation: Evaluation, names: Mapping[str, str] = AS_IT_IS) -> str:
    """Whether any variant beats copying the nearest training picture, in one or two sentences."""
    sentences = []
    for score in ("combined", "truth"):
        rows = [r for r in ranked(evaluation, score) if _copied(evaluation, score)]
        if not rows:
            continue
        leads = [(r, evaluation.difference(score, r, Row(COPY))) for r in rows]
        better = [
            f"{names.get(r.variant, r.variant)} ({_range(d, signed=True)})"
            for r, d in leads
            if d.low > 0
        ]
        worse = [names.get(r.variant, r.variant) for r, d in leads if d.high < 0]
        if better:
            verb = "beats" if len(better) == 1 else "beat"
            text = f"On {WORDS[score]}, {_listed(better)} {verb} copying"
        else:
            text = f"On {WORDS[score]}, no variant beats copying the nearest training picture"
            if worse:
                text += f"; {_listed(worse)} {'does' if len(worse) == 1 else 'do'} worse"
        sentences.append(text + ".")
    return " ".join(sentences) or "Copying could not be compared: its scores are missing."


def caveat(evaluation: Evaluation) -> str:
    """What speaks against the combined score, if the true pictures do; else empty."""
    rows = ranked(evaluation, "combined")
    true = evaluation.intervals.get(Row(REAL), {}).get("combined")
    if not (rows and true and true.n):
        return ""
    best = evaluation.intervals[rows[0]]["combined"]
    if best.mean <= true.mean:
        return ""
    return (
        f"Take the combined score with care: the true pictures themselves reach only "
        f"{_range(true)}, since the judge of identity sees the style as well and prefers the "
        "style that the character was learned in. Nearness to the true picture is the better guide."
    )


def gap_closed(evaluation: Evaluation, row: Row, score: str) -> float:
    """Share of the way from base (0) to real pictures (1) that a row has gone; NaN if unknown."""
    mean = evaluation.intervals[row][score].mean
    return float(evaluation.judged.scales[score](np.array(mean)))


def _copied(evaluation: Evaluation, score: str) -> bool:
    copy = evaluation.intervals.get(Row(COPY))
    return bool(copy and copy[score].n)


def _range(by: Interval, signed: bool = False) -> str:
    form = ("+" if signed else "") + (".2f" if by.high - by.low > 0.05 else ".3f")
    return f"{by.mean:{form}} [{by.low:{form}}, {by.high:{form}}]"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
