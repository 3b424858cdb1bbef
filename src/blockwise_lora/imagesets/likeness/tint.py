"""Taking a tint off: one gain and offset for each channel of a whole picture, within bounds."""

import numpy as np

GAIN, _OFFSET = (0.8, 1.25), 45  # a tint multiplies by as much, adds as much (of 255), no more
_UNSURE = 25  # of 255 squared: where nothing varies, nothing says that the gain is not 1
_CUT = (2, 253)  # of 255; up to here and from here on a colour may have been cut off
_PAPER, _PAPER_PART = 240, 0.03  # brightness from which on it is paper, and how much of it tells
_UNEXPLAINED = 0.2  # part of the difference that a tint may leave; true ones leave a tenth
_PAPER_MOVED = 2.5  # of 255, between the mean colours of two papers


def on_paper(moved: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n, m) bool: white in both of two (n, 3, m) pictures, where a drawing's ground is."""
    return (np.minimum(moved, target) >= 248).all(axis=1)


def same_paper(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,) bool: two whole pictures, (n, side, side, 3) uint8, have white paper of one colour."""
    (part, colour), (other_part, other_colour) = _paper(one), _paper(other)
    near = np.abs(colour - other_colour).max(axis=1) < _PAPER_MOVED
    return (np.minimum(part, other_part) > _PAPER_PART) & near


def _paper(views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) part of the views that is paper, and (n, 3) its mean colour."""
    flat = views.reshape(len(views), -1, 3)
    white = (flat >= _PAPER).all(axis=2)
    counts = white.sum(axis=1)
    total = (white[:, None].astype(np.float32) @ flat.astype(np.float32))[:, 0]
    return counts / white.shape[1], total / np.maximum(counts, 1)[:, None]


def tinted(
    moved: np.ndarray, target: np.ndarray, seen: np.ndarray, untinted: np.ndarray
) -> np.ndarray:
    """Give `moved` the tint of `target`.

    A tint colours the paper, too: where both have the same white paper there is none, and what
    differs is the drawing's own colour, such as another tone of skin. And a tint counts only where
    it explains nearly all: another tone of skin leaves hair and clothes as they were.

    Args:
        moved: (n, 3, m), 0 to 255.
        target: likewise.
        seen: (n, m) bool, the places that count.
        untinted: (n,) bool, pairs that have the same paper.

    Returns:
        (n, 3, m).
    """
    rows = np.flatnonzero(~untinted)
    if not len(rows):
        return moved
    plain, target, seen = moved[rows], target[rows], seen[rows]
    fitted = _beyond(_fitted(plain, target, seen), plain, target)
    explained = error(fitted, target, seen) < _UNEXPLAINED * error(plain, target, seen)
    result = moved.copy()
    result[rows[explained]] = fitted[explained]
    return result


def error(moved: np.ndarray, target: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(n,) sum of all differences of (n, 3, m) pictures in the places that count."""
    return (np.abs(moved - target) * seen[:, None]).reshape(len(moved), -1).sum(axis=1)


def _fitted(moved: np.ndarray, target: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Least squares over what is not cut off at black or white in one of the two.

    That counts only where there is nearly nothing else; what fits badly counts in the first of
    three rounds only.
    """
    seen = seen[:, None].astype(np.float32)
    least, most = _CUT
    usable = ((target > least) & (target < most) & (moved > least) & (moved < most)) * seen
    places = np.maximum(_sum(seen), 1)
    usable = np.where(_sum(usable) < 0.1 * places, seen, usable)
    weight, result = usable, moved
    for _ in range(3):
        total = np.maximum(_sum(weight), 1e-3)
        mean, aim = _sum(moved * weight) / total, _sum(target * weight) / total
        centred = (moved - mean) * weight
        variance = _sum(centred * centred) / total
        shared = _sum(centred * (target - aim)) / total
        gain = (shared + _UNSURE) / (variance + _UNSURE)
        # Flat colours hardly tell the gain: not one that asks for too large an offset.
        bounds = ((aim + sign * _OFFSET) / np.maximum(mean, 1) for sign in (-1, 1))
        gain = np.clip(np.clip(gain, *bounds), *GAIN)
        offset = np.clip(aim - gain * mean, -_OFFSET, _OFFSET)
        result = np.clip(gain * moved + offset, 0, 255)
        off = np.abs(result - target)
        usual = _sum(off * seen) / places
        weight = usable * (off < np.maximum(12, 1.5 * usual))
    return result


def _beyond(fitted: np.ndarray, moved: np.ndarray, target: np.ndarray) -> np.ndarray:
    """What was cut off at white or black may have been anything beyond: there, what fits best."""
    least, most = _CUT
    fitted = np.where(moved >= most, np.maximum(fitted, target), fitted)
    return np.where(moved <= least, np.minimum(fitted, target), fitted)


def _sum(values: np.ndarray) -> np.ndarray:
    return values.sum(axis=-1, keepdims=True)
