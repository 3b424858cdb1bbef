"""Laying one view over another: affine registration of many pairs at once.

Gauss-Newton steps in the inverse compositional form (Baker and Matthews, "Lucas-Kanade 20 years
on", 2004, section 3.2), on brightness that is brought to mean 0 and deviation 1, so that a tint
does not matter. Coordinates run from -1 to 1 over a view.
"""

import numpy as np

_DAMPING = 0.06  # keeps a view without texture in some direction where it is
_FARTHEST = 0.3  # of half a side: what moves more is no small change
_LEAST_OVERLAP = 0.6


def interior(side: int) -> np.ndarray:
    """(side * side,) bool: an octagon without the margin, which rotations fill and crops lose."""
    x, y = _grid(side)
    return (np.abs(x) < 0.9) & (np.abs(y) < 0.9) & (np.abs(x) + np.abs(y) < 1.65)


def warp(images: np.ndarray, transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sample images at the moved places, bilinearly.

    Args:
        images: (n, side, side, channels) float32.
        transforms: (n, 2, 3), places in the result to places in the image.

    Returns:
        (n, side * side, channels), and (n, side * side) bool: the place is inside of the image.
    """
    n, side = images.shape[:2]
    x, y = _grid(side)
    centre = (side - 1) / 2
    places = (transforms @ np.stack([x, y, np.ones_like(x)]) + 1) * centre
    inside = ((places > -0.5) & (places < side - 0.5)).all(axis=1)
    np.clip(places, 0, side - 1.001, out=places)
    corner = places.astype(np.int32)
    right, down = np.moveaxis(places - corner, 1, 0)[..., None]
    flat = images.reshape(n * side * side, -1)
    start = corner[:, 1] * side + corner[:, 0] + np.arange(n, dtype=np.int32)[:, None] * side**2
    upper = flat[start] + (flat[start + 1] - flat[start]) * right
    start += side
    lower = flat[start] + (flat[start + 1] - flat[start]) * right
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
    n, side = images.shape[:2]
    weight = np.broadcast_to(interior(side).astype(np.float32), (n, side * side))
    target = standardised(templates.reshape(n, side * side), weight)
    slopes = _slopes(target.reshape(n, side, side), side)
    curvature = np.swapaxes(slopes, 1, 2) @ (slopes * weight[..., None])
    inverse = np.linalg.inv(curvature + np.eye(6, dtype=np.float32) * _DAMPING * side)
    place, best = transforms, transforms
    score = np.full(n, -1, np.float32)
    for step in range(steps + 1):
        moved, inside = warp(images[..., None], place)
        common = weight * inside
        moved = standardised(moved[..., 0], common)
        overlap = common.sum(1)
        now = (moved * target * common).sum(1) / np.maximum(overlap, 1)
        better = (now > score) & (overlap > _LEAST_OVERLAP * weight.sum(1))
        score, best = np.where(better, now, score), np.where(better[:, None, None], place, best)
        if step < steps:
            error = ((moved - target) * common)[..., None]
            update = (inverse @ (np.swapaxes(slopes, 1, 2) @ error)).reshape(n, 2, 3)
            place = _composed(place, update, best)
    return best, score


def standardised(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(n, m) values with mean 0 and deviation 1 where `weight` is 1; plain ones stay near 0."""
    total = np.maximum(weight.sum(1, keepdims=True), 1)
    centred = values - (values * weight).sum(1, keepdims=True) / total
    deviation = np.sqrt((centred * centred * weight).sum(1, keepdims=True) / total)
    return centred / np.maximum(deviation, 1)


def smoothed(images: np.ndarray) -> np.ndarray:
    """(n, side, side) images under the binomial filter 1-2-1, edges repeated."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 4


def halved(images: np.ndarray) -> np.ndarray:
    """(n, side, side) images at half the side, each pixel the mean of four."""
    rows = images[:, ::2] + images[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]) / 4


def _grid(side: int) -> np.ndarray:
    """(2, side * side) float32, x and y."""
    y, x = np.mgrid[:side, :side].reshape(2, -1).astype(np.float32) * (2 / (side - 1)) - 1
    return np.stack([x, y])


def _slopes(target: np.ndarray, side: int) -> np.ndarray:
    """(n, side * side, 6): how brightness changes with each number of the transform."""
    down, right = (g.reshape(len(target), -1) for g in np.gradient(target, axis=(1, 2)))
    x, y = _grid(side)
    right, down = right * ((side - 1) / 2), down * ((side - 1) / 2)
    return np.stack([right * x, right * y, right, down * x, down * y, down], axis=2)


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
