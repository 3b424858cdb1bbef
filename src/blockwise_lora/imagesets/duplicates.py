"""Pictures that are there more than once: the same pixels, or nearly so.

A perceptual hash finds candidates; a comparison of the shrunken pixels decides. The hash alone
would not do: pictures of one face with another mouth share it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.screening import Screened


def drop_duplicates(screened: Sequence[Screened], config: CurationConfig) -> list[Screened]:
    """Keep the best of each group of duplicates.

    The best has the most usable pixels, then a caption of its own, then the first name. Groups
    do not chain: what is dropped resembles the very picture that is kept.

    Args:
        screened: in the order of names; those already dropped are passed through.
        config: the thresholds.

    Returns:
        The same pictures in the same order, duplicates dropped.
    """
    result = list(screened)
    kept: list[int] = []
    exact: dict[str, int] = {}
    hashes = np.zeros(len(result), np.uint64)
    for index in sorted(range(len(result)), key=lambda i: _rank(result[i], config.resolution)):
        picture = result[index]
        if not picture.verdict.kept:
            continue
        if picture.pixels in exact:
            original = result[exact[picture.pixels]]
            result[index] = _dropped(picture, original, "duplicate", 0, "the same pixels as")
            continue
        if config.near_duplicates:
            alike = np.bitwise_count(hashes[: len(kept)] ^ np.uint64(picture.phash))
            close = np.flatnonzero(alike <= config.hash_bits)
            near = _nearest(picture, [result[kept[i]] for i in close], config.pixel_difference)
            if near:
                words = f"a difference of at most {near[0]} of 255 from"
                result[index] = _dropped(picture, near[1], "near-duplicate", near[0], words)
                continue
        hashes[len(kept)] = picture.phash
        exact[picture.pixels] = index
        kept.append(index)
    return result


def difference(a: Screened, b: Screened) -> int:
    """The largest difference of two shrunken pictures in any place, in brightness or colour."""
    pairs = (a.luma, b.luma), (a.colour, b.colour)
    return max(int(np.abs(one.astype(np.int16) - other).max()) for one, other in pairs)


def _rank(picture: Screened, resolution: int) -> tuple[int, bool, bool]:
    verdict = picture.verdict
    usable = min(verdict.width or 0, verdict.height or 0, resolution)
    # Sorting is stable: names decide last.
    return -usable, not picture.texts, bool(picture.unreadable)


def _nearest(
    picture: Screened, others: Sequence[Screened], limit: int
) -> tuple[int, Screened] | None:
    """The other picture with the smallest difference, and that, if it is within the limit."""
    if not others:
        return None
    differences = [difference(picture, other) for other in others]
    best = int(np.argmin(differences))
    return (differences[best], others[best]) if differences[best] <= limit else None


def _dropped(
    picture: Screened, original: Screened, reason: str, number: int, words: str
) -> Screened:
    detail = f"{words} {original.verdict.file}"
    own, other = (next(iter(p.texts.values()), "") for p in (picture, original))
    if own and own != other:
        detail += f", which says {other or 'nothing'!r}, not {own!r}"
    verdict = replace(picture.verdict, reason=reason, number=float(number), detail=detail)
    return replace(picture, verdict=verdict)
