"""The whole protocol: pictures in, scores with intervals and comparisons out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from blockwise_lora.judges.bootstrap import DRAWS, LEVEL, Interval, interval
from blockwise_lora.judges.panel import Panel, Views
from blockwise_lora.judges.samples import (
    COPY,
    Question,
    References,
    Row,
    Sample,
    copy_samples,
    real_samples,
    style_picture_samples,
)
from blockwise_lora.judges.scores import SCORES, Judged, score_samples


@dataclass(frozen=True)
class BootstrapConfig:
    """How intervals are made.

    Attributes:
        draws: bootstrap samples.
        level: coverage aimed at, between 0 and 1.
        seed: of the resampling.
    """

    draws: int = DRAWS
    level: float = LEVEL
    seed: int = 0

    def __post_init__(self):
        if self.draws < 1:
            raise ValueError(f"draws: must be at least 1, got {self.draws}")
        if not 0 < self.level < 1:
            raise ValueError(f"level: must lie between 0 and 1, got {self.level}")


@dataclass(frozen=True)
class Difference:
    """How much higher row `a` scores than row `b`, on the same prompts and seeds."""

    score: str
    a: Row
    b: Row
    by: Interval


@dataclass(frozen=True)
class Evaluation:
    """The outcome.

    Attributes:
        judged: every picture's scores.
        intervals: row, then score, to its mean with interval.
        differences: both adapters, variant against variant and variant against copying.
        bootstrap: how the intervals were made.
    """

    judged: Judged
    intervals: dict[Row, dict[str, Interval]]
    differences: tuple[Difference, ...]
    bootstrap: BootstrapConfig

    @property
    def variants(self) -> tuple[str, ...]:
        """Compared variants in the order given."""
        return tuple(dict.fromkeys(row.variant for row in self.intervals if not row.anchor))

    def difference(self, score: str, a: Row, b: Row) -> Interval:
        """Of row `a` over row `b`; whichever way round it was computed."""
        for known in self.differences:
            if known.score == score and (known.a, known.b) == (a, b):
                return known.by
            if known.score == score and (known.a, known.b) == (b, a):
                by = known.by
                return Interval(-by.mean, -by.high, -by.low, by.n)
        raise KeyError(f"{a} and {b} were not compared on {score}")


def evaluate(
    panel: Panel,
    samples: Sequence[Sample],
    questions: Sequence[Question],
    references: References,
    bootstrap: BootstrapConfig = BootstrapConfig(),
) -> Evaluation:
    """Judge generated pictures beside their anchors, and compare the variants.

    Args:
        panel: the judges.
        samples: base pictures and each variant's, by condition, prompt and seed.
        questions: by prompt index.
        references: what the adapters learned from.
        bootstrap: how intervals are made.

    Raises:
        JudgeError: a judge cannot do its work.
    """
    return summarise(judge(panel, samples, questions, references), bootstrap)


def judge(
    panel: Panel,
    samples: Sequence[Sample],
    questions: Sequence[Question],
    references: References,
    known: Views | None = None,
) -> Judged:
    """Score generated pictures and their anchors.

    Args:
        panel: the judges.
        samples: base pictures and generated ones, as in `evaluate`.
        questions: by prompt index.
        references: what the adapters learned from.
        known: what the judges saw of some of the pictures before.
    """
    anchors = real_samples(questions, references) + style_picture_samples(questions)
    truths = [q.truth for q in questions if q.truth is not None]
    shown = [sample.picture for sample in (*anchors, *samples)]
    views = panel.look([*shown, *truths, *references.character, *references.style], known)
    copies = copy_samples(questions, references, samples, views)
    texts = panel.clip.texts([question.text for question in questions])
    return score_samples([*anchors, *copies, *samples], questions, references, views, texts)


def summarise(judged: Judged, bootstrap: BootstrapConfig = BootstrapConfig()) -> Evaluation:
    """Means, intervals and paired differences of judged pictures.

    Every interval has its own generator of the same seed: it does not change when another row or
    variant is added to the table.
    """

    def bounds(scores) -> Interval:
        generator = np.random.default_rng(bootstrap.seed)
        return interval(scores, generator, bootstrap.draws, bootstrap.level)

    intervals = {
        row: {score: bounds(judged.scores(row, score)) for score in SCORES} for row in judged.rows
    }
    both = [row for row in judged.rows if row.condition == "both"]
    pairs = list(combinations(both, 2))
    if Row(COPY) in judged.rows:
        pairs += [(row, Row(COPY)) for row in both]
    differences = tuple(
        Difference(score, a, b, bounds(judged.scores(a, score) - judged.scores(b, score)))
        for a, b in pairs
        for score in SCORES
    )
    return Evaluation(judged, intervals, differences, bootstrap)
