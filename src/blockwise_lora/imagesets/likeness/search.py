"""Finding, for each new picture, the picture among those kept that it is a copy of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from threadpoolctl import threadpool_limits

from blockwise_lora.imagesets.likeness.comparison import Limits, compare, roughly_registered
from blockwise_lora.imagesets.likeness.descriptors import Tangents, aligned, describe, luma
from blockwise_lora.imagesets.likeness.looks import Looks
from blockwise_lora.imagesets.likeness.tint import same_paper

# Cosine of two vectors after the best small movement: copies reach 0.93 as a rule, marked
# photographs of little contrast less.
_ALIGNED = 0.9
_CORRELATION = 0.92  # of two views after rough registration; copies reach 0.98, marked ones 0.92
_NOTHING = 3.0  # of 255; what differs no more may be too plain for a correlation
_COLUMNS = 8192  # vectors that others are multiplied with at once: 16 MB
_PARTNERS = 24  # candidates compared for one picture, the most similar first
_AT_ONCE = 512  # pairs whose vectors are compared at once
# Pairs that are laid over each other at once, at half their side and in full: so many that Python
# does not count, so few that their pixels stay in the processor's cache.
_COARSE, _FINE = 96, 24


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
class _Vectors:
    """Views of several pictures, without their pixels: 270 bytes each.

    Attributes:
        values: (n, 63), see `describe`.
        owner: (n,) keys of the pictures.
        place: (n,) which of its picture's views each is.
    """

    values: np.ndarray
    owner: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, looks: Sequence[Looks], keys: Sequence[int], mirrored: bool) -> "_Vectors":
        counts = [len(look.views) for look in looks]
        views = np.concatenate([look.views for look in looks])
        place = np.concatenate([np.arange(count) for count in counts])
        values = describe(views[:, :, ::-1] if mirrored else views)
        return cls(values, np.repeat(np.asarray(keys), counts), place)

    def joined(self, other: "_Vectors") -> "_Vectors":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return _Vectors(*(np.concatenate(pair) for pair in pairs))

    def without(self, keys: set[int]) -> "_Vectors":
        keep = ~np.isin(self.owner, list(keys))
        return _Vectors(self.values[keep], self.owner[keep], self.place[keep])


@dataclass(frozen=True)
class _Pairs:
    """Views that may show the same thing: rows of new and of old ones, the most similar first."""

    new: _Vectors
    old: _Vectors
    first: np.ndarray
    second: np.ndarray
    mirrored: bool

    def batches(self) -> "list[_Pairs]":
        return [self.taken(part) for part in _parts(len(self.first), _AT_ONCE)]

    def taken(self, rows: np.ndarray | slice) -> "_Pairs":
        return _Pairs(self.new, self.old, self.first[rows], self.second[rows], self.mirrored)

    @property
    def owners(self) -> tuple[np.ndarray, np.ndarray]:
        return self.new.owner[self.first], self.old.owner[self.second]


@dataclass(frozen=True)
class _Side:
    """One side of pairs.

    Attributes:
        views: (u, 48, 48, 3) uint8, each view once.
        whole: (u, 48, 48, 3) uint8, the whole pictures.
        extent: (u, 2), of the views.
        rows: (n,) which of the views is in each pair.
    """

    views: np.ndarray
    whole: np.ndarray
    extent: np.ndarray
    rows: np.ndarray

    @cached_property
    def luma(self) -> np.ndarray:
        return luma(self.views)

    @cached_property
    def tangents(self) -> Tangents:
        return Tangents.of(self.luma)


one_thread = threadpool_limits.wrap(limits=1, user_api="blas")
"""Decorates a function that searches. The matrices are small, and two threads would wait for each
other. It is not for `add` alone: where the limit ends, threads start that spin for some
milliseconds, on cores that the decoding processes need."""


class Search:
    """Pictures that are kept so far; each new one is compared with them alone.

    Only vectors are held in memory; the pixels of the few pictures that are compared are asked for.
    Whoever loops over `add` limits BLAS to one thread, with `one_thread`.
    """

    def __init__(self, limits: Limits, looks_of: Callable[[int], Looks], *, mirrored: bool = False):
        """Begin without pictures.

        Args:
            limits: what counts as a copy.
            looks_of: the looks of the picture with a key.
            mirrored: whether a mirror image counts, too.
        """
        self._limits, self._looks_of, self._mirrored = limits, looks_of, mirrored
        self._kept: list[_Vectors] = []

    def add(self, keys: Sequence[int]) -> dict[int, Match]:
        """Compare pictures with those that are kept and with each other; keep the new ones.

        Args:
            keys: of the pictures, rising; a picture is a copy of one that came before it.

        Returns:
            For each copy its original. Copies are not kept.
        """
        looks = {key: self._looks_of(key) for key in keys}
        new = _Vectors.of(list(looks.values()), keys, mirrored=False)
        sides = [(new, False)]
        if self._mirrored:
            sides.append((_Vectors.of(list(looks.values()), keys, mirrored=True), True))
        matches: dict[int, Match] = {}
        for kept in self._kept:
            for side, mirrored in sides:
                for copy, match in self._copies(_candidates(side, kept, mirrored, self._limits)):
                    if copy not in matches or match.difference < matches[copy].difference:
                        matches[copy] = match
        new = new.without(set(matches))
        for copy, original in self._among(sides, new, set(matches)):
            if original.key not in matches:
                matches.setdefault(copy, original)
        self._keep(new.without(set(matches)))
        return matches

    def _among(
        self, sides: list[tuple[_Vectors, bool]], new: _Vectors, known: set[int]
    ) -> list[tuple[int, Match]]:
        """Pairs within a batch, originals that come first in the order first."""
        found = []
        for side, mirrored in sides:
            pairs = _candidates(side.without(known), new, mirrored, self._limits, later_only=True)
            found += self._copies(pairs)
        return sorted(found, key=lambda pair: (pair[0], pair[1].difference))

    def _keep(self, new: _Vectors) -> None:
        # Few large arrays multiply faster than many small ones, and copying them each time is slow.
        while self._kept and len(self._kept[-1].owner) <= len(new.owner):
            new = self._kept.pop().joined(new)
        self._kept.append(new)

    def _copies(self, pairs: _Pairs) -> list[tuple[int, Match]]:
        return [found for batch in pairs.batches() for found in self._verified(batch)]

    def _verified(self, pairs: _Pairs) -> list[tuple[int, Match]]:
        new, old = self._side(pairs.new, pairs.first), self._side(pairs.old, pairs.second)
        if pairs.mirrored:
            new = replace(new, views=new.views[:, :, ::-1], whole=new.whole[:, :, ::-1])
        cosine, starts = aligned(new.tangents[new.rows], old.tangents[old.rows])
        rows = np.flatnonzero(cosine >= _ALIGNED)
        rows, starts = self._roughly_alike(new, old, rows, starts[rows])
        copies, originals = pairs.owners
        return [
            (int(copies[row]), Match(int(originals[row]), difference))
            for row, difference in self._alike(new, old, rows, starts)
        ]

    def _roughly_alike(
        self, new: _Side, old: _Side, rows: np.ndarray, starts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which of some pairs may be copies, and how they are moved."""
        kept = np.zeros(len(rows), bool)
        for part in _parts(len(rows), _COARSE):
            a, b = new.rows[rows[part]], old.rows[rows[part]]
            found = roughly_registered(new.luma[a], old.luma[b], starts[part])
            starts[part], correlation, least = found
            alike = (correlation >= _CORRELATION) | (least <= _NOTHING)
            kept[part] = alike & (least <= self._limits.local)
        return rows[kept], starts[kept]

    def _alike(
        self, new: _Side, old: _Side, rows: np.ndarray, starts: np.ndarray
    ) -> list[tuple[int, float]]:
        """Which of some pairs are copies, and how different they are."""
        found = []
        for part in _parts(len(rows), _FINE):
            a, b = new.rows[rows[part]], old.rows[rows[part]]
            extents = np.stack([new.extent[a], old.extent[b]], axis=1)
            untinted = same_paper(new.whole[a], old.whole[b])
            difference = compare(
                new.views[a], old.views[b], starts[part], extents, untinted, self._limits
            )
            within = difference.within(self._limits)
            found += zip(
                rows[part][within].tolist(), difference.local[within].tolist(), strict=True
            )
        return found

    def _side(self, vectors: _Vectors, rows: np.ndarray) -> _Side:
        once, inverse = np.unique(rows, return_inverse=True)
        chosen = [
            (self._looks_of(owner), place)
            for owner, place in zip(
                vectors.owner[once].tolist(), vectors.place[once].tolist(), strict=True
            )
        ]
        return _Side(
            np.stack([look.views[place] for look, place in chosen]),
            np.stack([look.views[0] for look, _ in chosen]),
            np.stack([look.extent[place] for look, place in chosen]),
            inverse,
        )


def _candidates(
    new: _Vectors, old: _Vectors, mirrored: bool, limits: Limits, later_only: bool = False
) -> _Pairs:
    """Pairs whose vectors are near each other; of two pictures the nearest views alone."""
    first, second, cosine = _near(new.values, old.values, limits.similarity)
    if later_only:
        later = new.owner[first] > old.owner[second]
        first, second, cosine = first[later], second[later], cosine[later]
    order = np.lexsort((second, first, -cosine))
    first, second = first[order], second[order]
    pairs = np.stack([new.owner[first], old.owner[second]], axis=1)
    once = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
    seen: dict[int, int] = {}
    rank = []
    for owner in new.owner[first[once]].tolist():
        seen[owner] = seen.get(owner, -1) + 1
        rank.append(seen[owner])
    once = once[np.array(rank, int) < _PARTNERS]
    return _Pairs(new, old, first[once], second[once], mirrored)


def _near(
    one: np.ndarray, other: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of both whose cosine is at least `limit`, and that; few columns in memory at a time."""
    found = []
    for start in range(0, max(len(other), 1), _COLUMNS):
        cosine = one @ other[start : start + _COLUMNS].T
        rows, columns = np.divmod(np.flatnonzero(cosine >= limit), max(cosine.shape[1], 1))
        found.append((rows, columns + start, cosine[rows, columns]))
    rows, columns, cosine = zip(*found, strict=True)
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(cosine)


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]
