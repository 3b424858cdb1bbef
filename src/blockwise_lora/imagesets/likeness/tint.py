"""Taking a tint off: one gain and offset for each channel of a whole picture, within bounds."""

import numpy as np

_GAIN, _OFFSET = (0.8, 1.25), 45  # a tint multiplies by as much and adds as much (of 255), no more
_UNSURE = 25  # of 255 squared: where nothing varies, nothing says that the gain is not 1
_PAPER, _PAPER_PART = 240, 0.03  # brightness from which on it is paper, and how much of it tells
_UNEXPLAINED = 0.2  # part of the difference that a tint may leave; true ones leave a tenth
_PAPER_MOVED = 2.5  # of 255, between the mean colours of two papers


def on_paper(moved: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n, m) bool: white in both of two (n, m, 3) pictures, where a drawing's ground is."""
    return (moved >= 248).all(axis=2) & (target >= 248).all(axis=2)


def same_paper(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) bool: two whole pictures, (n, side, side, 3) uint8, have white paper of one colour."""
    (part, colour), (other_part, other_colour) = _paper(one), _paper(other)
    near = np.abs(colour - other_colour).max(axis=1) < _PAPER_MOVED
    return (np.minimum(part, other_part) > _PAPER_PART) & near


def _paper(views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) part of the views that is paper, and (n, 3) its mean colour."""
    white = (views >= _PAPER).all(axis=3)
    counts = white.sum(axis=(1, 2))
    total = np.einsum("nyx,nyxc->nc", white, views, dtype=np.float32)
    return counts / white[0].size, total / np.maximum(counts, 1)[:, None]


def tinted(
    moved: np.ndarray, target: np.ndarray, seen: np.ndarray, untinted: np.ndarray
) -> np.ndarray:
    """Give `moved` the tint of `target`.

    A tint colours the paper, too: where both have the same white paper there is none, and what
    differs is the drawing's own colour, such as another tone of skin. And a tint counts only where
    it explains nearly all: another tone of skin leaves hair and clothes as they were.

    Args:
        moved: (n, m, 3), 0 to 255.
        target: likewise.
        seen: (n, m) bool, the places that count.
        untinted: (n,) bool, pairs that have the same paper.

    Returns:
        (n, m, 3).
    """
    fitted = _fitted(moved, target, seen)
    explained = _error(fitted, target, seen) < _UNEXPLAINED * _error(moved, target, seen)
    return np.where((explained & ~untinted)[:, None, None], fitted, moved)


def _error(moved: np.ndarray, target: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(n,) sum of all differences."""
    return (np.abs(moved - target) * seen[..., None]).sum(axis=(1, 2))


def _fitted(moved: np.ndarray, target: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Least squares over what is not cut off at black or white in one of the two.

    That counts only where there is nearly nothing else; what fits badly counts in the first of
    three rounds only.
    """
    seen = seen[..., None].astype(np.float32)
    usable = ((target > 2) & (target < 253) & (moved > 2) & (moved < 253)) * seen
    scarce = usable.sum(axis=1, keepdims=True) < 0.1 * seen.sum(axis=1, keepdims=True)
    usable = np.where(scarce, seen, usable)
    weight, result = usable, moved
    for _ in range(3):
        total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-3)
        mean = (moved * weight).sum(axis=1, keepdims=True) / total
        aim = (target * weight).sum(axis=1, keepdims=True) / total
        centred = (moved - mean) * weight
        variance = (centred * centred).sum(axis=1, keepdims=True) / total
        shared = (centred * (target - aim)).sum(axis=1, keepdims=True) / total
        gain = np.clip((shared + _UNSURE) / (variance + _UNSURE), *_GAIN)
        offset = np.clip(aim - gain * mean, -_OFFSET, _OFFSET)
        result = np.clip(gain * moved + offset, 0, 255)
        error = np.abs(result - target)
        places = np.maximum(seen.sum(axis=1, keepdims=True), 1)
        usual = (error * seen).sum(axis=1, keepdims=True) / places
        weight = usable * (error < np.maximum(12, 1.5 * usual))
    return result
