"""Checks that need a judge: who does not belong, what carries a mark, who is nearly another."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from blockwise_lora.imagesets.captioning import Encoder
from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.decoding import decode, without_warnings
from blockwise_lora.imagesets.screening import Screened, Verdict

_AT_ONCE = 32  # pictures that are in memory at a time
_FEWEST = 8  # pictures that make a set one can be an outlier of
# A judge that knows neither says nothing: its two probabilities are about one half.
_MARKED = ("a picture with a watermark", "a picture covered with text")
_CLEAN = ("a picture", "a picture without any text")


def judged(pictures: Sequence[Screened], judge: Encoder, config: CurationConfig) -> list[Screened]:
    """Find fault with kept pictures as `Checks` says.

    Args:
        pictures: in the order of names; those already dropped are passed through.
        judge: puts pictures and texts into one space.
        config: the limits.
    """
    kept = [index for index, picture in enumerate(pictures) if picture.verdict.kept]
    if not kept:
        return list(pictures)
    vectors = np.concatenate(
        [
            judge.images([_opened(pictures[i], config) for i in kept[start : start + _AT_ONCE]])
            for start in range(0, len(kept), _AT_ONCE)
        ]
    )
    verdicts = [pictures[index].verdict for index in kept]
    verdicts = _outliers(verdicts, vectors, config)
    verdicts = _marked(verdicts, vectors, judge, config)
    verdicts = _alike(verdicts, vectors, config)
    result = list(pictures)
    for index, verdict in zip(kept, verdicts, strict=True):
        result[index] = replace(pictures[index], verdict=verdict)
    return result


def _opened(picture: Screened, config: CurationConfig) -> Image.Image:
    with without_warnings():
        path = picture.candidate.path
        image = decode(path, config.background, config.max_megapixels).image
    return replace(config.framing, focus=picture.measures.focus).apply(image)


def _outliers(
    verdicts: list[Verdict], vectors: np.ndarray, config: CurationConfig
) -> list[Verdict]:
    """Likeness of each picture to the others' mean, in robust deviations of the set's own."""
    if len(verdicts) < _FEWEST:
        return verdicts
    others = vectors.sum(axis=0) - vectors
    likeness = (vectors * others).sum(axis=1) / np.maximum(np.linalg.norm(others, axis=1), 1e-6)
    middle = np.median(likeness)
    # 1.4826 times the median deviation is the standard deviation of a normal distribution.
    spread = max(1.4826 * float(np.median(np.abs(likeness - middle))), 1e-3)
    limit = config.checks.outlier.limit
    detail = (
        f"less like the set than the others by this many deviations; the limit is {limit:g} "
        "(curation.checks.outlier.limit)"
    )
    scores = np.round((likeness - middle) / spread, 2)
    return [
        verdict.judged("outlier", float(score), detail, config.checks.outlier)
        if score < limit
        else verdict
        for verdict, score in zip(verdicts, scores, strict=True)
    ]


def _marked(
    verdicts: list[Verdict], vectors: np.ndarray, judge: Encoder, config: CurationConfig
) -> list[Verdict]:
    texts = judge.texts([*_MARKED, *_CLEAN])
    votes = np.exp(judge.scale * (vectors @ texts.T - 1))
    share = np.round(votes[:, : len(_MARKED)].sum(axis=1) / votes.sum(axis=1), 3)
    limit = config.checks.marked.limit
    detail = (
        f"probability of a watermark or writing; the limit is {limit:g} "
        "(curation.checks.marked.limit)"
    )
    return [
        verdict.judged("marked", float(p), detail, config.checks.marked) if p >= limit else verdict
        for verdict, p in zip(verdicts, share, strict=True)
    ]


def _alike(verdicts: list[Verdict], vectors: np.ndarray, config: CurationConfig) -> list[Verdict]:
    """The later of two pictures that the judge cannot tell apart."""
    result = list(verdicts)
    for index in range(1, len(vectors)):
        earlier = [i for i in range(index) if result[i].kept]
        if not earlier:
            continue
        cosines = vectors[earlier] @ vectors[index]
        best = int(np.argmax(cosines))
        if cosines[best] >= config.checks.alike.limit:
            twin = result[earlier[best]].file
            detail = f"the judge cannot tell it from {twin} (curation.checks.alike.limit)"
            number = round(float(cosines[best]), 4)
            result[index] = result[index].judged("alike", number, detail, config.checks.alike)
            if not result[index].kept:
                result[index] = replace(result[index], twin=twin)
    return result
