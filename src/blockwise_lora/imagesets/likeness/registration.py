"""Laying one view over another: affine registration of many pairs at once.

Gauss-Newton steps in the inverse compositional form (Baker and Matthews, "Lucas-Kanade 20 years
on", 2004, section 3.2), on brightness that is brought to mean 0 and deviation 1, so that a tint
does not matter. Coordinates run from -1 to 1 over a view. Sums run over the last axis, which is
contiguous: over another one NumPy takes twenty times as long.
"""

from functools import cache

import numpy as np

_DAMPING = 0.06  # keeps a view without texture in some direction where it is
_FARTHEST = 0.3  # of half a side: what moves more is no small change
_LEAST_OVERLAP = 0.6


@cache
def interior(side: int) -> np.ndarray:
    """(side * side,) bool: an octagon without the margin, which rotations fill and crops lose."""
    x, y = _grid(side)
    return (np.abs(x) < 0.9) & (np.abs(y) < 0.9) & (np.abs(x) + np.abs(y) < 1.65)


def warp(images: np.ndarray, transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample images at the moved places, bilinearly.

    Args:
        images: (n, channels, side, side) float32.
        transforms: (n, 2, 3), places in the result to places in the image.

    Returns:
        (n, channels, side * side), and (n, side * side) bool: the place is inside of the image.
    """
    n, channels, side = images.shape[:3]
    x, y = _grid(side)
    centre = (side - 1) / 2
    places = (transforms @ np.stack([x, y, np.ones_like(x)]) + 1) * centre
    inside = ((places > -0.5) & (places < side - 0.5)).all(axis=1)
    np.clip(places, 0, side - 1.001, out=places)
    corner = places.astype(np.int32)
    # Not `places - corner`: of float32 and int32 NumPy makes float64, and so of all that follows.
    part = np.subtract(places, corner, dtype=np.float32)
    right, down = np.moveaxis(part, 1, 0)[:, :, None]
    flat = images.ravel()
    start = (corner[:, 1] * side + corner[:, 0])[:, None]
    start = start + np.arange(n * channels, dtype=np.int32).reshape(n, channels, 1) * side**2
    rows = []
    for _ in range(2):
        left = flat.take(start)
        rows.append(left + (flat.take(start + 1) - left) * right)
        start += side
    upper, lower = rows
    return upper + (lower - upper) * down, inside


def register(
    images: np.ndarray, templates: np.ndarray, transforms: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the movement that lays each image over its template.

    Args:
        images: (n, side, side) float32, brightness.
        templates: likewise.
        transforms: (n, 2, 3) float32, where to start: from the template's places to the image's.
        steps: how many improvements are tried; the best place is returned, the start included.

    Returns:
        The transforms, and (n,) the correlation of template and moved image; -1 where they do not
        overlap.
    """
    side = images.shape[1]
    target = _target(templates)
    slopes = _slopes(target.reshape(templates.shape)) * interior(side)
    inverse = np.linalg.inv(
        slopes @ np.swapaxes(slopes, 1, 2) + np.eye(6, dtype=np.float32) * _DAMPING * side
    )
    place, best = transforms, transforms
    score = np.full(len(images), -1, np.float32)
    for step in range(steps + 1):
        moved, common, now = _correlated(images, target, place)
        better = now > score
        score, best = np.where(better, now, score), np.where(better[:, None, None], place, best)
        if step < steps:
            error = ((moved - target) * common)[..., None]
            place = _composed(place, (inverse @ (slopes @ error)).reshape(-1, 2, 3), best)
    return best, score


def correlation(images: np.ndarray, templates: np.ndarray, transforms: np.ndarray) -> np.ndarray:
    """(n,) what `register` would return for the place where it starts."""
    return _correlated(images, _target(templates), transforms)[2]


def _target(templates: np.ndarray) -> np.ndarray:
    n, side = templates.shape[:2]
    weight = np.broadcast_to(interior(side).astype(np.float32), (n, side * side))
    return standardised(templates.reshape(n, side * side), weight)


def _correlated(
    images: np.ndarray, target: np.ndarray, place: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The moved images, standardised; the weight of their places; the correlation."""
    moved, inside = warp(images[:, None], place)
    usable = interior(images.shape[1])
    common = (inside & usable).astype(np.float32)
    moved = standardised(moved[:, 0], common)
    overlap = common.sum(axis=1)
    seen, count = target * common, np.maximum(overlap, 1)
    score = (moved * seen).sum(axis=1) / count
    # What lies under the image may be more varied than all of the target.
    variance = (seen * seen).sum(axis=1) / count - (seen.sum(axis=1) / count) ** 2
    score /= np.sqrt(np.maximum(variance, 1))
    return moved, common, np.where(overlap > _LEAST_OVERLAP * usable.sum(), score, -1)


def standardised(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n, m) values with mean 0 and deviation 1 where `weight` is 1; plain ones stay near 0."""
    total = np.maximum(weight.sum(1, keepdims=True), 1)
    centred = values - (values * weight).sum(1, keepdims=True) / total
    deviation = np.sqrt((centred * centred * weight).sum(1, keepdims=True) / total)
    return centred / np.maximum(deviation, 1)


def smoothed(images: np.ndarray) -> np.ndarray:
    """(..., side, side) images under the binomial filter 1-2-1, edges repeated."""
    rows = np.empty_like(images)
    rows[..., 1:-1, :] = (images[..., :-2, :] + images[..., 2:, :]) / 4
    rows[..., 0, :] = (images[..., 0, :] + images[..., 1, :]) / 4
    rows[..., -1, :] = (images[..., -1, :] + images[..., -2, :]) / 4
    rows += images / 2
    result = np.empty_like(images)
    result[..., 1:-1] = (rows[..., :-2] + rows[..., 2:]) / 4
    result[..., 0] = (rows[..., 0] + rows[..., 1]) / 4
    result[..., -1] = (rows[..., -1] + rows[..., -2]) / 4
    result += rows / 2
    return result


def halved(images: np.ndarray) -> np.ndarray:
    """(..., side, side) images at half the side, each pixel the mean of four."""
    rows = images[..., ::2, :] + images[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


@cache
def _grid(side: int) -> np.ndarray:
    """(2, side * side) float32, x and y."""
    y, x = np.mgrid[:side, :side].reshape(2, -1).astype(np.float32) * (2 / (side - 1)) - 1
    return np.stack([x, y])


def _slopes(target: np.ndarray) -> np.ndarray:
    """(n, 6, side * side): how brightness changes with each number of the transform."""
    n, side = target.shape[:2]
    down, right = (g.reshape(n, -1) * ((side - 1) / 2) for g in np.gradient(target, axis=(1, 2)))
    x, y = _grid(side)
    return np.stack([right * x, right * y, right, down * x, down * y, down], axis=1)


def _composed(place: np.ndarray, update: np.ndarray, best: np.ndarray) -> np.ndarray:
    """`place` after the inverse of a small update; the best so far where that leads astray."""
    step = np.zeros((len(place), 3, 3), np.float32)
    step[:, :2] = update
    step += np.eye(3, dtype=np.float32)
    small = np.abs(update).max(axis=(1, 2)) < 0.5
    step[~small] = np.eye(3)
    new = (place[:, :, :2] @ np.linalg.inv(step)[:, :2]).astype(np.float32)
    new[:, :, 2] += place[:, :, 2]
    near = np.abs(new - np.eye(2, 3)).max(axis=(1, 2)) < _FARTHEST
    return np.where((small & near)[:, None, None], new, best)
