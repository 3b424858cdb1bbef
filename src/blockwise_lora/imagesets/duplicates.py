"""Pictures that are there more than once: the same pixels, or copies that were changed a little."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.likeness import Looks, Search, one_thread
from blockwise_lora.imagesets.screening import Screened

_BATCH = 256  # pictures looked up at once: large enough for fast products, 4 MB of views


def drop_duplicates(
    screened: Sequence[Screened], looks_of: Callable[[int], Looks], config: CurationConfig
) -> list[Screened]:
    """Keep the best of each group of duplicates.

    The best is what a person wants kept, then has the most usable pixels, then a caption of its
    own, then the first name. Groups do not chain: what is dropped resembles the very picture that
    is kept. A picture that a person wants kept is never dropped.

    Args:
        screened: in the order of names; those already dropped are passed through.
        looks_of: the looks of the picture at a place of that order.
        config: what counts as a copy.

    Returns:
        The same pictures in the same order, duplicates dropped.
    """
    result = list(screened)
    order = [i for i, picture in enumerate(result) if picture.verdict.kept]
    order.sort(key=lambda i: _rank(result[i], config.resolution))
    exact: dict[str, int] = {}
    unique = []
    for index in order:
        picture = result[index]
        first = exact.setdefault(picture.measures.pixels, index)
        if first == index or picture.wanted:
            unique.append(index)
        else:
            result[index] = _dropped(picture, result[first], "duplicate", 0, "the same pixels as")
    if config.duplicates.near:
        _drop_near(result, unique, looks_of, config)
    return result


@one_thread
def _drop_near(
    result: list[Screened],
    order: Sequence[int],
    looks_of: Callable[[int], Looks],
    config: CurationConfig,
) -> None:
    search = Search(
        config.duplicates.limits,
        lambda place: looks_of(order[place]),
        mirrored=config.duplicates.mirrored,
    )
    for start in range(0, len(order), _BATCH):
        places = range(start, min(start + _BATCH, len(order)))
        for place, match in search.add(places).items():
            picture, original = result[order[place]], result[order[match.key]]
            if not picture.wanted:
                words = f"at most {match.difference:.0f} of 255 apart in any place from"
                number = round(match.difference, 1)
                result[order[place]] = _dropped(picture, original, "near-duplicate", number, words)


def _rank(picture: Screened, resolution: int) -> tuple[bool, int, bool, bool]:
    verdict = picture.verdict
    usable = min(verdict.width or 0, verdict.height or 0, resolution)
    # Sorting is stable: names decide last.
    return not picture.wanted, -usable, not picture.texts, bool(picture.unreadable)


def _dropped(
    picture: Screened, original: Screened, reason: str, number: float, words: str
) -> Screened:
    detail = f"{words} {original.verdict.file}"
    own, other = (next(iter(p.texts.values()), "") for p in (picture, original))
    if own and own != other:
        detail += f", which says {other or 'nothing'!r}, not {own!r}"
    verdict = replace(
        picture.verdict,
        reason=reason,
        number=float(number),
        detail=detail,
        twin=original.verdict.file,
    )
    return replace(picture, verdict=verdict)
