"""Finding, for each new picture, the picture among those kept that it is a copy of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blockwise_lora.imagesets.likeness.comparison import (
    Difference,
    Limits,
    compare,
    roughly_registered,
)
from blockwise_lora.imagesets.likeness.descriptors import PROBES, describe
from blockwise_lora.imagesets.likeness.looks import Looks

_CORRELATION = 0.93  # of two views after rough registration; copies reach 0.95 nearly always
_PARTNERS = 24  # candidates compared for one picture, the most similar first
_AT_ONCE = 512  # pairs in one batch: 30 MB
# (probe of the new view, probe of the old one): rotations come in both directions, zoom does not.
_PROBED = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 3))


@dataclass(frozen=True)
class Match:
    """A copy's original.

    Attributes:
        key: the original's, as it was added.
        difference: largest local difference in brightness, 0 to 255, see `Limits.local`.
    """

    key: int
    difference: float


@dataclass(frozen=True)
class _Views:
    """Views of several pictures in one array; `owner` (n,) says whose each is."""

    views: np.ndarray
    extent: np.ndarray
    vectors: np.ndarray
    owner: np.ndarray

    @classmethod
    def of(cls, looks: Sequence[Looks], owners: Sequence[int], mirrored: bool = False) -> "_Views":
        views = np.concatenate([look.views for look in looks])
        if mirrored:
            views = views[:, :, ::-1]
        owner = np.repeat(np.asarray(owners), [len(look.views) for look in looks])
        extent = np.concatenate([look.extent for look in looks])
        return cls(views, extent, describe(views), owner)

    def joined(self, other: "_Views") -> "_Views":
        return _Views(
            np.concatenate([self.views, other.views]),
            np.concatenate([self.extent, other.extent]),
            np.concatenate([self.vectors, other.vectors], axis=1),
            np.concatenate([self.owner, other.owner]),
        )

    def taken(self, keep: np.ndarray) -> "_Views":
        return _Views(self.views[keep], self.extent[keep], self.vectors[:, keep], self.owner[keep])


class Search:
    """Pictures that are kept so far; each new one is compared with them alone."""

    def __init__(self, limits: Limits, *, mirrored: bool = False):
        """Begin without pictures.

        Args:
            limits: what counts as a copy.
            mirrored: whether a mirror image counts, too.
        """
        self._limits, self._mirrored = limits, mirrored
        self._kept: list[_Views] = []

    def add(self, looks: Sequence[Looks], keys: Sequence[int]) -> dict[int, Match]:
        """Look a batch up, and keep those that are no copies.

        Args:
            looks: best picture first: of two copies in one batch the earlier is kept.
            keys: one number a picture, ascending in the order of all batches.

        Returns:
            The copies' matches by their keys.
        """
        matches: dict[int, Match] = {}
        new = _Views.of(looks, keys)
        sides = [new, _Views.of(looks, keys, mirrored=True)] if self._mirrored else [new]
        for kept in self._kept:
            for side in sides:
                _keep_nearest(matches, self._copies(side, kept))
        new = new.taken(~np.isin(new.owner, list(matches)))
        for copy, original in self._among(sides, new, set(matches)):
            if original.key not in matches:
                matches.setdefault(copy, original)
        self._keep(new.taken(~np.isin(new.owner, list(matches))))
        return matches

    def _among(self, sides: list[_Views], new: _Views, known: set[int]) -> list[tuple[int, Match]]:
        """Pairs within a batch, originals that come first in the order first."""
        found = []
        for side in sides:
            rest = side.taken(~np.isin(side.owner, list(known)))
            found += self._copies(rest, new, later_only=True)
        return sorted(found, key=lambda pair: (pair[0], pair[1].difference))

    def _keep(self, new: _Views) -> None:
        # Few large arrays multiply faster than many small ones, and copying them each time is slow.
        while self._kept and len(self._kept[-1].owner) <= len(new.owner):
            new = self._kept.pop().joined(new)
        self._kept.append(new)

    def _copies(
        self, new: _Views, old: _Views, later_only: bool = False
    ) -> list[tuple[int, Match]]:
        if not len(new.owner) or not len(old.owner):
            return []
        first, second, probed = self._candidates(new, old, later_only)
        found = []
        for start in range(0, len(first), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found += self._verified(new, old, first[part], second[part], probed[part])
        return found

    def _candidates(
        self, new: _Views, old: _Views, later_only: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows of `new` and `old` and the probe that brings them nearest; each pair once."""
        score = np.full((len(new.owner), len(old.owner)), -1, np.float32)
        probed = np.zeros(score.shape, np.int8)
        for index, (a, b) in enumerate(_PROBED):
            cosine = new.vectors[a] @ old.vectors[b].T
            better = cosine > score
            score[better], probed[better] = cosine[better], index
        if later_only:
            score[new.owner[:, None] <= old.owner] = -1
        first, second = np.nonzero(score >= self._limits.similarity)
        order = np.argsort(-score[first, second], kind="stable")
        first, second = first[order], second[order]
        pairs = np.stack([new.owner[first], old.owner[second]], axis=1)
        once = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
        rank = np.zeros(len(once), int)
        seen: dict[int, int] = {}
        for place, owner in enumerate(new.owner[first[once]].tolist()):
            rank[place] = seen[owner] = seen.get(owner, -1) + 1
        once = once[rank < _PARTNERS]
        return first[once], second[once], probed[first[once], second[once]]

    def _verified(
        self,
        new: _Views,
        old: _Views,
        first: np.ndarray,
        second: np.ndarray,
        probed: np.ndarray,
    ) -> list[tuple[int, Match]]:
        moved = np.array([b for _, b in _PROBED])[probed] > 0  # the old view is the moved one
        probe = np.array([a or b for a, b in _PROBED])[probed]
        starts = np.stack([p.matrix() for p in PROBES])[probe]
        a, b = new.views[first], old.views[second]
        swap = moved[:, None, None, None]
        images, templates = np.where(swap, b, a), np.where(swap, a, b)
        extents = np.stack([new.extent[first], old.extent[second]], axis=1)
        extents[moved] = extents[moved][:, ::-1]
        transforms, correlation = roughly_registered(images, templates, starts)
        good = np.flatnonzero(correlation >= _CORRELATION)
        if not len(good):
            return []
        difference = compare(
            images[good], templates[good], transforms[good], extents[good], self._limits
        )
        return _matches(new.owner[first[good]], old.owner[second[good]], difference, self._limits)


def _matches(
    copies: np.ndarray, originals: np.ndarray, difference: Difference, limits: Limits
) -> list[tuple[int, Match]]:
    return [
        (int(copies[row]), Match(int(originals[row]), float(difference.local[row])))
        for row in np.flatnonzero(difference.within(limits))
    ]


def _keep_nearest(matches: dict[int, Match], found: Sequence[tuple[int, Match]]) -> None:
    for copy, match in found:
        if copy not in matches or match.difference < matches[copy].difference:
            matches[copy] = match
