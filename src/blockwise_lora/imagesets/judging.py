"""Checks that need a judge: who does not belong, what carries a mark, who is nearly another."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from blockwise_lora.imagesets.captioning import Encoder
from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.decoding import decode, without_warnings
from blockwise_lora.imagesets.marks import Marks, find_marks, marked_copies
from blockwise_lora.imagesets.screening import Screened, Verdict

_AT_ONCE = 32  # pictures that are in memory at a time
_COMPARED = 256  # pictures compared with all earlier ones at a time
_FEWEST = 8  # pictures that make a set one can be an outlier of
_MARKED = 256  # pictures, spread over the set, whose marked copies the judge is shown


def judged(
    pictures: Sequence[Screened], judge: Encoder, config: CurationConfig
) -> tuple[list[Screened], list[str]]:
    """Find fault with kept pictures as `Checks` says.

    Args:
        pictures: in the order of names; those already dropped are passed through.
        judge: puts pictures into one space.
        config: the limits.

    Returns:
        The pictures, and warnings in words of what the judge cannot tell.
    """
    kept = [index for index, picture in enumerate(pictures) if picture.verdict.kept]
    if not kept:
        return list(pictures), []
    asked = config.checks.marked.action != "off" and len(kept) >= _FEWEST
    sample = range(0, len(kept), -(-len(kept) // _MARKED)) if asked else range(0)
    vectors, copies = _vectors([pictures[i] for i in kept], sample, judge, config)
    verdicts, warnings = [pictures[index].verdict for index in kept], []
    verdicts = _outliers(verdicts, vectors, config)
    if asked:
        verdicts, warnings = _marked(verdicts, find_marks(vectors, sample, copies), config)
    verdicts = _alike(verdicts, vectors, config)
    result = list(pictures)
    for index, verdict in zip(kept, verdicts, strict=True):
        result[index] = replace(pictures[index], verdict=verdict)
    return result, warnings


def _vectors(
    pictures: Sequence[Screened], sample: range, judge: Encoder, config: CurationConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Of all pictures, (n, d), and of marked copies of a sample, (m, copies, d)."""
    vectors, copies = [], []
    for start in range(0, len(pictures), _AT_ONCE):
        places = range(start, min(start + _AT_ONCE, len(pictures)))
        images = [_opened(pictures[place], config) for place in places]
        vectors.append(judge.images(images))
        copies += [
            judge.images(marked_copies(image, place))
            for place, image in zip(places, images, strict=True)
            if place in sample
        ]
    return np.concatenate(vectors), np.stack(copies) if copies else np.zeros((0, 0, 0))


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
    total = vectors.sum(axis=0)
    # Of unit vectors: the cosine with the total less the vector itself, without a copy of them all.
    along = vectors @ total
    length = np.sqrt(np.maximum(total @ total - 2 * along + 1, 1e-12))
    likeness = (along - 1) / length
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
    verdicts: list[Verdict], marks: Marks, config: CurationConfig
) -> tuple[list[Verdict], list[str]]:
    """Verdicts, and a warning for each kind of mark that the judge cannot tell."""
    check = config.checks.marked
    detail = (
        "more like the set with {} put over it (1) than like itself (0); the limit is "
        f"{check.limit:g} (curation.checks.marked.limit)"
    )
    scores = np.round(marks.score, 2)
    warnings = [
        f"the judge cannot tell {kind} in these pictures ({area:.2f} of 1), or many carry it: "
        f"{kind} is not looked for"
        for kind, area in marks.unsure.items()
    ]
    found = [
        verdict.judged("marked", float(score), detail.format(kind), check)
        if score >= check.limit
        else verdict
        for verdict, score, kind in zip(verdicts, scores, marks.kind, strict=True)
    ]
    return found, warnings


def _alike(verdicts: list[Verdict], vectors: np.ndarray, config: CurationConfig) -> list[Verdict]:
    """The later of two pictures that the judge cannot tell apart."""
    result, limit = list(verdicts), config.checks.alike.limit
    for start in range(0, len(vectors), _COMPARED):
        block = vectors[start : start + _COMPARED] @ vectors[: start + _COMPARED].T
        for row, cosines in enumerate(block):
            index = start + row
            near = np.flatnonzero(cosines[:index] >= limit)
            earlier = [other for other in near[np.argsort(-cosines[near])] if result[other].kept]
            if earlier:
                twin = result[earlier[0]].file
                detail = f"the judge cannot tell it from {twin} (curation.checks.alike.limit)"
                number = round(float(cosines[earlier[0]]), 4)
                found = result[index].judged("alike", number, detail, config.checks.alike)
                result[index] = replace(found, twin=twin) if found != result[index] else found
    return result
