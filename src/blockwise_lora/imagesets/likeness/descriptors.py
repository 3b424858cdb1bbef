"""Views to vectors whose cosine tells how alike two views are, from afar.

The vector holds the 63 lowest frequencies of a view's cosine transform, faded out towards its edge:
the perceptual hash of https://www.hackerfactor.com/blog/?/archives/432 before it is cut down to
bits, which would lose what tells one face from another. What small movements of a view do to its
vector is linear in its pixels, too, so the movement between two views, and how alike they are after
it, follow from their vectors alone: the tangent distance of Simard, LeCun and Denker, "Efficient
pattern recognition using a new transformation distance", 1993, section 2.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from blockwise_lora.imagesets.likeness.looks import SIDE

FREQUENCIES = 8  # in each direction; the constant one is left out
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_DAMPING = 0.02  # of squared unit vectors: what hardly changes a vector moves it little
_PLAIN = 50.0  # length of a vector (0 to 255 times 48) below which a view has no contrast


@dataclass(frozen=True)
class Tangents:
    """Vectors and how they change with a small movement of their views.

    Attributes:
        vectors: (n, 63) float32, of length 1.
        slopes: (n, 6, 63), derivative by each number of an affine movement.
    """

    vectors: np.ndarray
    slopes: np.ndarray

    @classmethod
    def of(cls, luma: np.ndarray) -> "Tangents":
        """Tangents of (n, 48, 48) brightness."""
        waves = _frequencies(luma, 4)
        length = _lengths(waves[:, 0])
        return cls(waves[:, 0] / length, waves[:, 1:] / length[:, None])

    def __getitem__(self, rows: np.ndarray) -> "Tangents":
        return Tangents(self.vectors[rows], self.slopes[rows])


def planes(views: np.ndarray) -> np.ndarray:
    """(n, side, side, 3) uint8 to (n, 3, side, side) float32."""
    return np.ascontiguousarray(np.moveaxis(views, 3, 1)).astype(np.float32)


def brightness(colours: np.ndarray) -> np.ndarray:
    """(n, 3, ...) float32 to (n, ...)."""
    return colours[:, 0] * LUMA[0] + colours[:, 1] * LUMA[1] + colours[:, 2] * LUMA[2]


def luma(views: np.ndarray) -> np.ndarray:
    """(n, side, side, 3) uint8 views to (n, side, side) float32."""
    return views.astype(np.float32) @ LUMA


def describe(views: np.ndarray) -> np.ndarray:
    """(n, 48, 48, 3) uint8 views to (n, 63) float32 of length 1; 0 where there is no contrast."""
    vectors = _frequencies(luma(views), 1)[:, 0]
    return vectors / _lengths(vectors)


def aligned(images: Tangents, templates: Tangents) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the movement that lays each image over its template, from vectors alone.

    Returns:
        (n,) cosine of the two vectors after the movement, and (n, 2, 3) float32, places in the
        template to places in the image, both from -1 to 1.
    """
    a, b = images.vectors, templates.vectors
    slopes = (images.slopes + templates.slopes) / 2  # halfway: wrong in the third order only
    squares = slopes @ np.swapaxes(slopes, 1, 2) + _DAMPING * np.eye(6, dtype=np.float32)
    movement = np.linalg.solve(squares, slopes @ (b - a)[..., None])
    moved = a + (np.swapaxes(slopes, 1, 2) @ movement)[..., 0]
    length = np.linalg.norm(moved, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (moved * b).sum(axis=1) / np.maximum(length, 1e-6)
    return cosine, np.eye(2, 3, dtype=np.float32) + movement.reshape(-1, 2, 3)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length < _PLAIN, np.inf, length)


def _frequencies(luma: np.ndarray, kinds: int) -> np.ndarray:
    """Coefficients of (n, 48, 48) views under waves that are orthogonal to a plain view.

    Args:
        luma: the views.
        kinds: 1 for the waves alone; 4 for what their derivatives need, too.

    Returns:
        (n, 1, 63), or (n, 7, 63): waves, then the derivative by each number of a movement. By
        Green's identity the gradient of the view, which is not known, becomes one of the waves.
    """
    lines, (share, length) = _lines()[: kinds * FREQUENCIES], _corrections()
    # A wave is a product of two lines, one down and one across.
    across = luma.reshape(-1, SIDE) @ lines.T
    parts = lines @ across.reshape(len(luma), SIDE, -1)
    parts = parts.reshape(len(luma), kinds, FREQUENCIES, kinds, FREQUENCIES)
    chosen = np.stack(
        [parts[:, down, :, right] for down, right in _PARTS[: 1 + 2 * (kinds - 1)]], 1
    )
    waves = (chosen - share * chosen[:, :, :1, :1]) / length
    return waves.reshape(len(luma), len(waves[0]), -1)[:, :, 1:]


# Which lines down and across make up the waves and their derivatives: of `_lines`, those alone,
# times the place, derived, and times the place and derived.
_PARTS = ((0, 0), (0, 3), (1, 2), (0, 2), (2, 1), (3, 0), (2, 0))


@cache
def _lines() -> np.ndarray:
    """(4 * 8, 48) float32: waves under a window, four kinds of them, see `_PARTS`."""
    angle = np.pi * (np.arange(SIDE) + 0.5) / SIDE
    centre = (SIDE - 1) / 2
    place = np.arange(SIDE) / centre - 1
    # What moves in or out at the edge shall not count as much as what stays.
    lines = np.cos(np.arange(FREQUENCIES)[:, None] * angle) * np.sqrt(np.sin(angle))
    derived = [-centre * np.gradient(kind, axis=1) for kind in (lines, lines * place)]
    return np.concatenate([lines, lines * place, *derived]).astype(np.float32)


@cache
def _corrections() -> tuple[np.ndarray, np.ndarray]:
    """(8, 8) each: how much of the window a wave holds, and its length without that."""
    lines = _lines()[:FREQUENCIES].astype(np.float64)
    sums = lines.sum(axis=1) / lines[0].sum()
    share = np.outer(sums, sums)
    squares = lines @ lines.T
    # |wave - share * window|^2, multiplied out
    mixed = np.outer(squares[:, 0], squares[:, 0])
    length = np.outer(squares.diagonal(), squares.diagonal())
    length = length - 2 * share * mixed + share**2 * squares[0, 0] ** 2
    length[0, 0] = 1
    return share.astype(np.float32), np.sqrt(length).astype(np.float32)
