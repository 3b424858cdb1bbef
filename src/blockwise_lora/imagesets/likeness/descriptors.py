"""Views to vectors whose cosine tells how alike two views are, from afar.

The vector holds the 63 lowest frequencies of a view's cosine transform: the perceptual hash of
https://www.hackerfactor.com/blog/?/archives/432 before it is cut down to bits, which would lose
what tells one face from another. A small rotation or crop of the view is a linear map of its
pixels, so the vector of the turned view comes from the same multiplication with another matrix, and
pictures that were turned or cropped are found without turning any.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from blockwise_lora.imagesets.likeness.looks import SIDE

FREQUENCIES = 8  # in each direction; the constant one is left out
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Probe:
    """A small movement of a view.

    Attributes:
        degrees: of rotation.
        zoom: above 1 shows less of the picture, larger.
    """

    degrees: float = 0.0
    zoom: float = 1.0

    def matrix(self) -> np.ndarray:
        """(2, 3) float32: places in the moved view to places in the view, both from -1 to 1."""
        angle = np.deg2rad(self.degrees)
        cosine, sine = np.cos(angle) / self.zoom, np.sin(angle) / self.zoom
        return np.array([[cosine, -sine, 0], [sine, cosine, 0]], np.float32)


# Rotations and crops of a few percent lie within the reach of one of these.
PROBES = (Probe(), Probe(degrees=2.5), Probe(degrees=-2.5), Probe(zoom=1.08))


def describe(views: np.ndarray) -> np.ndarray:
    """Vectors of each view under each probe.

    Args:
        views: (n, 48, 48, 3) uint8.

    Returns:
        (probes, n, 63) float32, of length 1; a view without any contrast has length 0.
    """
    luma = (views.astype(np.float32) @ LUMA).reshape(len(views), -1)
    vectors = np.stack([luma @ matrix.T for matrix in _projections()])
    length = np.linalg.norm(vectors, axis=2, keepdims=True)
    return vectors / np.where(length < 1e-3, np.inf, length)


@cache
def _projections() -> tuple[np.ndarray, ...]:
    """For each probe (63, 48 * 48): movement, then cosine transform."""
    place = np.pi * (2 * np.arange(SIDE) + 1) / (2 * SIDE)
    waves = np.cos(np.arange(FREQUENCIES)[:, None] * place)
    basis = np.einsum("ai,bj->abij", waves, waves).reshape(FREQUENCIES**2, -1)[1:]
    basis /= SIDE * SIDE
    return tuple((basis @ _movement(probe)).astype(np.float32) for probe in PROBES)


def _movement(probe: Probe) -> np.ndarray:
    """(48 * 48, 48 * 48): bilinear sampling of the moved view, edges repeated."""
    centre = (SIDE - 1) / 2
    y, x = np.mgrid[:SIDE, :SIDE].reshape(2, -1) / centre - 1
    places = probe.matrix() @ np.stack([x, y, np.ones_like(x)])
    u, v = np.clip((places + 1) * centre, 0, SIDE - 1.001)
    column, row = u.astype(int), v.astype(int)
    right, down = u - column, v - row
    weights = np.zeros((SIDE * SIDE, SIDE * SIDE))
    target, source = np.arange(SIDE * SIDE), row * SIDE + column
    for step, weight in (
        (0, (1 - right) * (1 - down)),
        (1, right * (1 - down)),
        (SIDE, (1 - right) * down),
        (SIDE + 1, right * down),
    ):
        weights[target, source + step] += weight
    return weights
