"""How two pictures differ once one lies over the other, wears its tint and is as sharp.

What a copy may have suffered leaves traces of three kinds: a strong difference in few places of one
sign (a watermark), a weak one in many (compression), and none (movement, tint, size). Another
expression differs strongly in few places, another colour of the same drawing weakly in many: the
limits lie between.
"""

from dataclasses import dataclass

import numpy as np

from blockwise_lora.imagesets.likeness.descriptors import brightness, planes
from blockwise_lora.imagesets.likeness.registration import (
    correlation,
    halved,
    interior,
    register,
    smoothed,
    warp,
)
from blockwise_lora.imagesets.likeness.tint import GAIN, on_paper, tinted
from blockwise_lora.imagesets.likeness.tint import error as _error

_BLOCKS = 8  # in each direction; colour is compared that coarsely, since formats store it coarsely
_WORST = 8  # places of 48x48 that make up the local difference: half an eye of a face
_CLEAR = 16  # 0 to 255; a difference that one sees
# No movement is as good as one that leaves so much less of the correlation missing.
_AS_GOOD, _NEARLY = 1.1, 0.0005
# Where registration leads astray, two pictures that lie over each other as they are may be one, if
# they have no more than this part of the local difference. Hard negatives begin above 0.7.
_UNMOVED = 0.65


@dataclass(frozen=True)
class Limits:
    """Up to which differences two pictures count as one.

    The figures are of the embedded world's emoji at 64 and 128 pixels and of photographs of 160
    (see docs/curation.md): copies by re-encoding, resizing to half, crops, borders and rotations of
    a few percent, tints and watermarks against cats, faces, clocks, hearts and skin tones.

    Attributes:
        similarity: cosine of two pictures' vectors (see `descriptors`) from which on they are
            compared at all; lower is slower and finds little more.
        local: largest difference in brightness, 0 to 255: the mean of the 8 worst of 48x48 places.
            Copies reach 34 (watermarks), expressions of one face begin at 37.
        colour: largest difference of the mean colour in one of 8x8 blocks, its brightness left
            out, 0 to 255. Copies reach 24, hearts of two colours begin at 31.
        spread: part of the drawing, 0 to 1, that differs by 16 of 255 and more. Copies reach
            0.22 (small drawings encoded anew), tones of skin begin at 0.36.
        zoom: one picture may show its content larger than the other by this factor, borders and
            margins counted; a small and a large drawing of one thing are two pictures.
        bend: how far the movement between the two, its zoom aside, may be from none (Frobenius
            norm of the matrix less one): a turn by 4 degrees is 0.1, as is a stretch by 1.14. Hands
            that can be laid over each other only by turning and stretching begin at 0.12.
    """

    similarity: float = 0.84
    local: float = 35.0
    colour: float = 30.0
    spread: float = 0.28
    zoom: float = 1.35
    bend: float = 0.11

    def __post_init__(self) -> None:
        checks = {
            "similarity is above 0 and at most 1": 0 < self.similarity <= 1,
            "local is 0 to 255": 0 <= self.local <= 255,
            "colour is 0 to 255": 0 <= self.colour <= 255,
            "spread is 0 to 1": 0 <= self.spread <= 1,
            "zoom is at least 1": self.zoom >= 1,
            "bend is at least 0": self.bend >= 0,
        }
        mistakes = [rule for rule, holds in checks.items() if not holds]
        if mistakes:
            raise ValueError("\n".join(mistakes))


@dataclass(frozen=True)
class Difference:
    """What is left between pairs of pictures; each (n,), in the units of `Limits`.

    Attributes:
        local: brightness in the worst places.
        colour: of the worst block.
        spread: part that differs clearly.
        fits: zoom and bend are within the limits.
    """

    local: np.ndarray
    colour: np.ndarray
    spread: np.ndarray
    fits: np.ndarray

    def within(self, limits: Limits) -> np.ndarray:
        """(n,) bool: the two count as one picture."""
        return (
            self.fits
            & (self.local <= limits.local)
            & (self.colour <= limits.colour)
            & (self.spread <= limits.spread)
        )


def roughly_registered(
    images: np.ndarray, templates: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Register pairs at half their side.

    Args:
        images: (n, 48, 48) float32, brightness.
        templates: likewise.
        starts: (n, 2, 3) transforms, see `register`.

    Returns:
        Transforms and correlation, see `register`, and (n,) what `Difference.local` will at least
        be: on so coarse a grid each place is the mean of four, and differences shrink.
    """
    a, b = smoothed(halved(images)), smoothed(halved(templates))
    transforms, score = register(a, b, starts, steps=2)
    moved, inside = warp(a[:, None], transforms)
    seen = (inside & interior(a.shape[1])).astype(np.float32)
    return transforms, score, _least_local(moved[:, 0], b.reshape(len(b), -1), seen)


def _least_local(moved: np.ndarray, target: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The worst places after the best gain and offset, whether or not a tint is allowed."""
    count = np.maximum(seen.sum(axis=1, keepdims=True), 1)
    moved = (moved - (moved * seen).sum(axis=1, keepdims=True) / count) * seen
    target = (target - (target * seen).sum(axis=1, keepdims=True) / count) * seen
    variance = np.maximum((moved * moved).sum(axis=1, keepdims=True), 1)
    gain = np.clip((moved * target).sum(axis=1, keepdims=True) / variance, *GAIN)
    residue = np.abs(target - gain * moved)
    return np.partition(residue, -_WORST, axis=1)[:, -_WORST:].mean(axis=1)


def compare(
    images: np.ndarray,
    templates: np.ndarray,
    starts: np.ndarray,
    extents: np.ndarray,
    untinted: np.ndarray,
    limits: Limits,
) -> Difference:
    """Measure the differences of views that are nearly registered.

    Args:
        images: (n, 48, 48, 3) uint8.
        templates: likewise.
        starts: (n, 2, 3) transforms, see `register`.
        extents: (n, 2, 2), what image and template show of their pictures, as `Looks.extent`.
        untinted: (n,) bool, pairs whose whole pictures have the same paper, see `same_paper`.
        limits: for zoom and bend.
    """
    image, template = planes(images), planes(templates)
    transforms = _registered(brightness(image), brightness(template), starts)
    # Where little is to be seen, or a mark covers much, registration may wander: without movement
    # the two may be one.
    certain = _fits(transforms, extents, limits)
    transforms = np.where(certain[:, None, None], transforms, np.eye(2, 3, dtype=np.float32))
    moved, inside = warp(image, transforms)
    n, side = len(image), image.shape[-1]
    seen = inside & interior(side)
    target = template.reshape(n, 3, side * side)
    drawing = seen & ~on_paper(moved, target)
    moved, target = _as_sharp(tinted(moved, target, seen, untinted), target, seen, side)
    residue = (target - moved) * seen[:, None]
    local = _local(brightness(residue), side)
    certain |= local <= limits.local * _UNMOVED
    return Difference(
        local=local,
        colour=_colour(residue, drawing, side),
        spread=_spread(residue, drawing, side),
        fits=_fits(transforms, extents, limits) & certain,
    )


def _registered(image: np.ndarray, template: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Transforms; exactly none where none is as good, so that nothing is blurred by sampling."""
    a, b = smoothed(image), smoothed(template)
    transforms, score = register(a, b, starts, steps=2)
    none = np.broadcast_to(np.eye(2, 3, dtype=np.float32), transforms.shape)
    unmoved = correlation(a, b, none)
    still = 1 - unmoved <= _AS_GOOD * (1 - score) + _NEARLY
    return np.where(still[:, None, None], none, transforms)


def _as_sharp(
    moved: np.ndarray, target: np.ndarray, seen: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Soften the sharper one of each pair, where that brings the two clearly nearer."""
    softer = _softened(moved, side), _softened(target, side)
    best, result = _error(moved, target, seen), (moved, target)
    for pair in ((softer[0], target), (moved, softer[1])):
        error = _error(*pair, seen)
        better = error < 0.93 * best
        best = np.where(better, error, best)
        chosen = better[:, None, None]
        result = tuple(np.where(chosen, a, b) for a, b in zip(pair, result, strict=True))
    return result


def _softened(values: np.ndarray, side: int) -> np.ndarray:
    return smoothed(values.reshape(*values.shape[:-1], side, side)).reshape(values.shape)


def _local(residue: np.ndarray, side: int) -> np.ndarray:
    """The larger of the mean over the brightest and over the darkest places of the residue."""
    soft = _softened(_softened(residue, side), side)
    ordered = np.partition(soft, (_WORST, -_WORST), axis=1)
    darker, brighter = ordered[:, :_WORST].mean(axis=1), ordered[:, -_WORST:].mean(axis=1)
    return np.maximum(np.maximum(brighter, -darker), 0)


def _spread(residue: np.ndarray, drawing: np.ndarray, side: int) -> np.ndarray:
    """At half the side and softened: what compression leaves changes sign from place to place."""
    coarse = smoothed(halved(residue.reshape(-1, 3, side, side)))
    ground = halved(drawing.reshape(-1, side, side).astype(np.float32)) >= 0.5
    clear = (np.abs(coarse).max(axis=1) > _CLEAR) & ground
    # Where there is nearly no drawing, a few places are no large part of it.
    return clear.sum(axis=(1, 2)) / np.maximum(ground.sum(axis=(1, 2)), 0.02 * ground[0].size)


def _colour(residue: np.ndarray, drawing: np.ndarray, side: int) -> np.ndarray:
    """Of the worst block; blocks of which a fifth or less is drawing do not count."""
    size = side // _BLOCKS
    shape = (_BLOCKS, size, _BLOCKS, size)
    masked = residue * drawing[:, None]
    sums = masked.reshape(-1, 3, *shape).sum(axis=-1).sum(axis=-2)
    counts = drawing.reshape(-1, 1, *shape).sum(axis=-1).sum(axis=-2)
    means = np.where(counts * 5 > size * size, sums / np.maximum(counts, 1), 0)
    return np.abs(means - brightness(means)[:, None]).max(axis=(1, 2, 3))


def _fits(transforms: np.ndarray, extents: np.ndarray, limits: Limits) -> np.ndarray:
    # Views show parts of pictures: bring the movement to whole pictures.
    image, template = extents[:, 0], extents[:, 1]
    whole = transforms[:, :, :2] * image[:, :, None] / template[:, None, :]
    zoom = np.sqrt(np.maximum(np.linalg.det(whole), 1e-6))
    bend = np.linalg.norm(whole / zoom[:, None, None] - np.eye(2), axis=(1, 2))
    return (np.abs(np.log(zoom)) <= np.log(limits.zoom)) & (bend <= limits.bend)
