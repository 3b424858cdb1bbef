"""Looking for copies in any files, without curating them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blockwise_lora.imagesets.crew import CRASHED, one_by_one
from blockwise_lora.imagesets.decoding import MAX_MEGAPIXELS, DecodeError, decode, without_warnings
from blockwise_lora.imagesets.likeness import WORKING_SIDE, Limits, Search, looks_of, one_thread
from blockwise_lora.imagesets.shelf import Shelf

_BATCH = 256  # pictures compared at once


@dataclass(frozen=True)
class Copies:
    """What was found among files; the others are pictures that are there once.

    Attributes:
        originals: for each copy the file that it is a copy of, which comes before it.
        unreadable: for each file that yields no picture the reason.
    """

    originals: dict[Path, Path]
    unreadable: dict[Path, str]


@one_thread
def find_copies(
    files: Sequence[Path],
    limits: Limits | None = None,
    *,
    mirrored: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
    workers: int | None = None,
) -> Copies:
    """Find pictures that are copies of others, as the curation does.

    Unlike the curation, it looks at nothing else, and so unpacks large JPEG files at a part of
    their size only.

    Args:
        files: best first: what comes later is a copy of what came before.
        limits: what counts as a copy.
        mirrored: whether mirror images count, too.
        max_megapixels: larger pictures are not unpacked.
        workers: processes that decode; None takes one a core.
    """
    work, lost = partial(_looks, max_megapixels=max_megapixels), (b"", f"damaged: {CRASHED}")
    found, waiting = Copies({}, {}), []
    with Shelf() as shelf:
        search = Search(limits or Limits(), shelf.__getitem__, mirrored=mirrored)
        for number, (looks, reason) in enumerate(one_by_one(work, files, lost, workers)):
            shelf.put(looks)
            if looks:
                waiting.append(number)
            else:
                found.unreadable[files[number]] = reason
            if waiting and (len(waiting) == _BATCH or number + 1 == len(files)):
                for copy, match in search.add(waiting).items():
                    found.originals[files[copy]] = files[match.key]
                waiting = []
    return found


def _looks(files: Sequence[Path], max_megapixels: float) -> list[tuple[bytes, str]]:
    with without_warnings():
        return [_looks_of_file(file, max_megapixels) for file in files]


def _looks_of_file(file: Path, max_megapixels: float) -> tuple[bytes, str]:
    try:
        decoded = decode(file, max_megapixels=max_megapixels, at_least=WORKING_SIDE)
    except DecodeError as error:
        return b"", f"{error.reason}: {error.detail}"
    return looks_of(decoded.image).packed(), ""
