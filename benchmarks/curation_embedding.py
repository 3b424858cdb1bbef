"""A judge's embedding as second stage of the search for copies, beside registration.

The first stage is the same for both: pictures whose vectors are near each other are candidates.
Then either registration decides, as in `blockwise_lora.imagesets.likeness`, or the cosine of two
pictures under the embedded DINO, from a limit on. Two limits are measured: the lowest that drops
none of the hard negatives, and the lowest with a precision of 0.99 on the tuning half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from planted import CHANGES, Named, halves, hard_negatives

from blockwise_lora.imagesets.likeness import Limits, Looks, looks_of
from blockwise_lora.imagesets.likeness.descriptors import describe

JUDGE = Path("data/06_models/judges/dino")
PRECISION = 0.99
Copies = Callable[[list[Looks]], dict[int, int]]
Embed = Callable[[list], np.ndarray]


@dataclass(frozen=True)
class Trial:
    """One kind of change in one half: what each way of deciding matches.

    Attributes:
        originals: how many there are; copies follow in the order of `chosen`.
        chosen: numbers of the copies' originals.
        registered: picture to its match.
        nearest: for each picture the candidate before it with the highest cosine; -1 where none is.
        cosine: that cosine.
    """

    kind: str
    originals: int
    chosen: np.ndarray
    registered: dict[int, int]
    nearest: np.ndarray
    cosine: np.ndarray

    def embedded(self, limit: float) -> dict[int, int]:
        near = np.flatnonzero((self.cosine >= limit) & (self.nearest >= 0))
        return {int(n): int(self.nearest[n]) for n in near}

    def right(self, matches: dict[int, int]) -> int:
        return sum(matches.get(self.originals + n) == i for n, i in enumerate(self.chosen))


def compared(sets: dict[str, Named], packages: Path, part: int, seed: int, copies: Copies) -> dict:
    """Recall, precision and hard negatives lost, for each way of deciding."""
    from blockwise_lora.judges.dino import load_dino

    embed = load_dino(JUDGE).images
    hard = [items for size in (64, 128) for items in hard_negatives(packages, size).values()]
    hardest = [_nearest(*_seen(items, embed))[1] for items in hard]
    trials = {
        half: {
            name: _trials(halves(items)[half], part, seed, copies, embed)
            for name, items in sets.items()
        }
        for half in ("tuning", "held out")
    }
    safe = float(np.nextafter(max(c.max(initial=0) for c in hardest), 2))
    precise = _precise([t for some in trials["tuning"].values() for t in some])
    ways = {
        "registration": lambda t: t.registered,
        f"embedding from {safe:.4f} on": lambda t: t.embedded(safe),
        f"embedding from {precise:.4f} on": lambda t: t.embedded(precise),
        f"either, embedding from {safe:.4f} on": lambda t: t.embedded(safe) | t.registered,
    }
    kept = sum(len(copies([looks_of(image) for _, image in items])) for items in hard)
    # The safe limit drops none, so that either of the two drops what registration drops.
    by_limit = [sum(int((c >= limit).sum()) for c in hardest) for limit in (safe, precise)]
    lost = [kept, *by_limit, kept]
    rows = {}
    for (way, matched), dropped in zip(ways.items(), lost, strict=True):
        rows[way] = {"hard negatives dropped": dropped}
        for name, some in trials["held out"].items():
            found = [t.right(matched(t)) for t in some]
            wrong = sum(len(matched(t)) for t in some) - sum(found)
            kinds = {t.kind: f / len(t.chosen) for t, f in zip(some, found, strict=True)}
            rows[way][name] = {
                "recall": sum(found) / sum(len(t.chosen) for t in some),
                "precision": sum(found) / max(sum(found) + wrong, 1),
                "kinds": kinds,
            }
    return rows


def _trials(originals: Named, part: int, seed: int, copies: Copies, embed: Embed) -> list[Trial]:
    rng, trials = np.random.default_rng(seed), []
    looks, vectors = _seen(originals, embed)
    for kind, change in CHANGES.items():
        chosen = rng.permutation(len(originals))[:part]
        changed = [("", change(originals[i][1], rng)) for i in chosen]
        more, theirs = _seen(changed, embed)
        nearest, cosine = _nearest(looks + more, np.concatenate([vectors, theirs]))
        registered = copies(looks + more)
        trials.append(Trial(kind, len(originals), chosen, registered, nearest, cosine))
    return trials


def _seen(items: Named, embed: Embed) -> tuple[list[Looks], np.ndarray]:
    images = [image for _, image in items]
    return [looks_of(image) for image in images], embed(images)


def _nearest(looks: list[Looks], vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each picture the nearest candidate before it, and how near it is."""
    views = describe(np.concatenate([look.views for look in looks]))
    starts = np.cumsum([0] + [len(look.views) for look in looks[:-1]])
    alike = np.maximum.reduceat(views @ views.T, starts, axis=0)
    alike = np.maximum.reduceat(alike, starts, axis=1) >= Limits().similarity
    cosine = np.where(np.tril(alike, -1), vectors @ vectors.T, -1)
    best = cosine.argmax(axis=1)
    value = cosine[np.arange(len(best)), best]
    return np.where(value > -1, best, -1), value


def _precise(trials: list[Trial]) -> float:
    """The lowest limit with the precision that was aimed for."""
    for limit in np.arange(0.8, 1.0, 0.0025):
        found = sum(t.right(t.embedded(limit)) for t in trials)
        if found >= PRECISION * sum(len(t.embedded(limit)) for t in trials):
            return float(limit)
    return 1.0
