"""Writing and watermarks, found by what a judge makes of the same pictures with writing over them.

A judge has no word for "without a watermark" that it understands for certain, but it can be shown:
copies of the set's own pictures get a mark, and the direction that moves their vectors tells marked
pictures from clean ones (Fisher's linear discriminant between each picture and its copy). Whether
the judge can tell at all shows on pictures that were left out of the fit.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COPIES = 2  # of each picture and kind
_FOLDS = 8
_CERTAIN = 0.8  # least area, see `_area`; benchmarks/judge_checks.py
_SHRINKAGE = 0.5  # of the covariance towards a multiple of one: there are few pictures
_LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")


def _word(rng: np.random.Generator, letters: int) -> str:
    return "".join(rng.choice(_LETTERS, letters))


def _written(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """One to four lines of letters across the picture, in a strong colour."""
    result, (width, height) = image.copy(), image.size
    font = ImageFont.load_default(max(8, round(height * rng.uniform(0.12, 0.25))))
    ink = [(0, 0, 0), (255, 255, 255), (200, 30, 30)][rng.integers(3)]
    edge = (255, 255, 255) if ink == (0, 0, 0) else (0, 0, 0)
    pen = ImageDraw.Draw(result)
    for _ in range(rng.integers(1, 5)):
        place = (width * rng.uniform(0, 0.15), height * rng.uniform(0, 0.8))
        pen.text(place, _word(rng, 9), ink, font, stroke_width=1, stroke_fill=edge)
    return result


def _watermarked(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A word at 25 to 50 percent opacity, level or aslant."""
    width, height = image.size
    font = ImageFont.load_default(max(8, round(width * rng.uniform(0.1, 0.2))))
    layer = Image.new("L", (2 * width, 2 * height), 0)
    place = (width * rng.uniform(0.5, 0.7), height * rng.uniform(0.6, 1.3))
    opacity = int(255 * rng.uniform(0.25, 0.5))
    ImageDraw.Draw(layer).text(place, _word(rng, 10), opacity, font)
    layer = layer.rotate(rng.choice([0, 30, -30]), Image.Resampling.BICUBIC)
    layer = layer.crop((width // 2, height // 2, width // 2 + width, height // 2 + height))
    light = np.asarray(image.convert("L")).mean() > 128
    result = image.copy()
    result.paste((60, 60, 60) if light else (255, 255, 255), (0, 0, width, height), layer)
    return result


KINDS: Mapping[str, Callable[[Image.Image, np.random.Generator], Image.Image]] = {
    "writing": _written,
    "a watermark": _watermarked,
}


@dataclass(frozen=True)
class Marks:
    """What was found in a set.

    Attributes:
        score: (n,), 0 like the set's clean pictures to 1 like their marked copies; nan where the
            judge cannot tell any kind.
        kind: (n,) which kind it is rather.
        unsure: kinds that the judge cannot tell, with their area.
    """

    score: np.ndarray
    kind: tuple[str, ...]
    unsure: Mapping[str, float]


def marked_copies(image: Image.Image, seed: int) -> list[Image.Image]:
    """Copies of a picture with marks, `COPIES` of each kind after the other."""
    rng = np.random.default_rng(seed)
    return [mark(image, rng) for mark in KINDS.values() for _ in range(COPIES)]


def find_marks(vectors: np.ndarray, sample: Sequence[int], copies: np.ndarray) -> Marks:
    """Score all pictures.

    Args:
        vectors: (n, d), of all pictures.
        sample: places of those that were copied.
        copies: (m, kinds * COPIES, d), of the sample's copies in the order of `marked_copies`.
    """
    scores, names, unsure = [], [], {}
    for number, kind in enumerate(KINDS):
        own = copies[:, number * COPIES : (number + 1) * COPIES]
        score, area = _scores(vectors, np.asarray(sample), own)
        if area < _CERTAIN:
            unsure[kind] = area
        else:
            scores.append(score)
            names.append(kind)
    if not scores:
        return Marks(np.full(len(vectors), np.nan), ("",) * len(vectors), unsure)
    table = np.stack(scores)
    return Marks(table.max(axis=0), tuple(names[i] for i in table.argmax(axis=0)), unsure)


def _scores(
    vectors: np.ndarray, sample: np.ndarray, copies: np.ndarray
) -> tuple[np.ndarray, float]:
    """Of all pictures; those of the sample by a fit without them, which the area is of."""
    plain = vectors[sample]
    result = _fitted(plain, copies)(vectors)
    marked = np.zeros(copies.shape[:2])
    for fold in range(min(_FOLDS, len(sample))):
        out = np.arange(len(sample)) % _FOLDS == fold
        score = _fitted(plain[~out], copies[~out])
        result[sample[out]] = score(plain[out])
        marked[out] = score(copies[out])
    return result, _area(marked.ravel(), result[sample])


def _fitted(plain: np.ndarray, copies: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function of vectors: 0 at the mean of the plain ones, 1 at that of their copies."""
    middle = plain.mean(axis=0)
    moved = (copies - plain[:, None]).mean(axis=(0, 1))
    spread = np.cov(plain.T)
    level = np.trace(spread) / len(spread)
    spread = (1 - _SHRINKAGE) * spread + _SHRINKAGE * max(level, 1e-8) * np.eye(len(spread))
    direction = np.linalg.solve(spread, moved)
    length = max(float(moved @ direction), 1e-12)
    return lambda some: (some - middle) @ direction / length


def _area(marked: np.ndarray, plain: np.ndarray) -> float:
    """How often a copy scores above a picture of the set; 0.5 is chance.

    Where two pictures in five carry a mark already, no judge gets beyond 0.8.
    """
    difference = np.subtract.outer(marked, plain)
    return float((difference > 0).mean() + (difference == 0).mean() / 2)
