"""Views to vectors whose cosine tells how alike two views are, from afar.

The vector holds the 63 lowest frequencies of a view's cosine transform, faded out towards its edge:
the perceptual hash of https://www.hackerfactor.com/blog/?/archives/432 before it is cut down to
bits, which would lose what tells one face from another. What small movements of a view do to its
vector is linear in its pixels, too, so the movement between two views, and how alike they are after
it, follow from their vectors alone: the tangent distance of Simard, LeCun and Denker, "Efficient
pattern recognition using a new transformation distance", 1993, section 2.
"""

from functools import cache

import numpy as np

from blockwise_lora.imagesets.likeness.looks import SIDE

FREQUENCIES = 8  # in each direction; the constant one is left out
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_DAMPING = 0.02  # of squared unit vectors: what hardly changes a vector moves it little
_PLAIN = 50.0  # length of a vector (0 to 255 times 48) below which a view has no contrast


def describe(views: np.ndarray) -> np.ndarray:
    """(n, 48, 48, 3) uint8 views to (n, 63) float32 of length 1; 0 where there is no contrast."""
    vectors = _luma(views) @ _basis().T
    return vectors / _lengths(vectors)


def aligned(images: np.ndarray, templates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Estimate the movement that lays each image over its template, from vectors alone.

    Args:
        images: (n, 48, 48, 3) uint8.
        templates: likewise.

    Returns:
        (n,) cosine of the two vectors after the movement, and (n, 2, 3) float32, places in the
        template to places in the image, both from -1 to 1.
    """
    a, a_slopes = _vectors_and_slopes(images)
    b, b_slopes = _vectors_and_slopes(templates)
    slopes = (a_slopes + b_slopes) / 2  # halfway: wrong in the third order only
    squares = slopes @ np.swapaxes(slopes, 1, 2) + _DAMPING * np.eye(6, dtype=np.float32)
    movement = np.linalg.solve(squares, slopes @ (b - a)[..., None])
    moved = a + (np.swapaxes(slopes, 1, 2) @ movement)[..., 0]
    length = np.linalg.norm(moved, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (moved * b).sum(axis=1) / np.maximum(length, 1e-6)
    return cosine, np.eye(2, 3, dtype=np.float32) + movement.reshape(-1, 2, 3)


def _vectors_and_slopes(views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    luma = _luma(views)
    vectors = luma @ _basis().T
    length = _lengths(vectors)
    slopes = (luma @ _slope_basis().T).reshape(len(views), 6, -1)
    return vectors / length, slopes / length[:, None]


def _luma(views: np.ndarray) -> np.ndarray:
    return (views.reshape(-1, 3) @ LUMA).reshape(len(views), -1)


def _lengths(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(length < _PLAIN, np.inf, length)


@cache
def _basis() -> np.ndarray:
    """(63, 48 * 48) float32: waves under a window, orthogonal to a plain view, of length 1."""
    place = np.pi * (np.arange(SIDE) + 0.5) / SIDE
    waves = np.cos(np.arange(FREQUENCIES)[:, None] * place)
    # What moves in or out at the edge shall not count as much as what stays.
    window = np.sqrt(np.outer(np.sin(place), np.sin(place)))
    basis = np.einsum("ai,bj->abij", waves, waves).reshape(-1, SIDE, SIDE)[1:] * window
    basis -= basis.sum(axis=(1, 2), keepdims=True) / window.sum() * window
    basis /= np.sqrt((basis**2).sum(axis=(1, 2), keepdims=True))
    return basis.reshape(len(basis), -1).astype(np.float32)


@cache
def _slope_basis() -> np.ndarray:
    """(6 * 63, 48 * 48) float32: derivative of a vector by each number of an affine movement.

    By Green's identity the gradient of the view, which is not known, becomes one of the basis.
    """
    basis = _basis().reshape(-1, SIDE, SIDE)
    centre = (SIDE - 1) / 2
    y, x = np.mgrid[:SIDE, :SIDE] / centre - 1
    one = np.ones_like(x)
    slopes = [
        -centre * np.gradient(basis * field, axis=axis) for axis in (2, 1) for field in (x, y, one)
    ]
    return np.concatenate(slopes).reshape(-1, SIDE * SIDE).astype(np.float32)
