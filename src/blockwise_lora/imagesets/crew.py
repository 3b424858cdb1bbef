"""Work on many files, spread over the cores; what was measured before is only looked up."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from blockwise_lora.imagesets import store
from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.decoding import without_warnings
from blockwise_lora.imagesets.measures import Measures, key_of, measure
from blockwise_lora.imagesets.store import Store

_CHUNK = 16  # files that a process takes at once
_ALONE = 64  # fewer files than this are measured here: starting a process takes half a second
_LARGEST = 1 << 30  # bytes; a larger file is no picture

Item, Result = TypeVar("Item"), TypeVar("Result")


def in_chunks(
    function: Callable[[Sequence[Item]], Result], items: Sequence[Item], workers: int | None = None
) -> Iterator[Result]:
    """Results of a function of a few items, in their order, from processes where there are many.

    Args:
        function: and what it is given must be what processes can be handed.
        items: all of them.
        workers: processes; None takes one a core.

    Raises:
        BrokenProcessPool: a process died.
    """
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    workers = min(workers or os.cpu_count() or 1, len(chunks))
    if len(items) < _ALONE or workers < 2:
        yield from map(function, chunks)
        return
    # Forked processes would inherit the locks of PyTorch's and MLflow's threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(function, chunks)


def measure_files(
    paths: Sequence[Path], config: CurationConfig, kept: Store, *, progress: str = ""
) -> Iterator[Measures]:
    """Measure files, one after the other in their order.

    A file that brings a decoder down costs that process only: it is reported like any other file
    that yields no picture.

    Args:
        paths: the files.
        config: how they are decoded and framed; `workers` says how many processes there are.
        kept: what was measured before; what is new is added.
        progress: words for a bar; empty: none.
    """
    with tqdm(total=len(paths), desc=progress, disable=not progress) as bar:
        for found in _found(paths, config, kept):
            kept.put((key, measures) for key, measures, new in found if new and key)
            yield from (measures for _, measures, _ in found)
            bar.update(len(found))


_Found = list[tuple[str, Measures, bool]]


def _found(paths: Sequence[Path], config: CurationConfig, kept: Store) -> Iterator[_Found]:
    done = 0
    try:
        work = partial(_measure_chunk, config=config, kept=kept)
        for found in in_chunks(work, paths, config.workers):
            done += len(found)
            yield found
    except BrokenProcessPool:
        for path in paths[done:]:
            yield [_guarded(path, config, kept)]


def _guarded(path: Path, config: CurationConfig, kept: Store) -> tuple[str, Measures, bool]:
    """One file in a process of its own."""
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(_measure_chunk, [path], config, kept).result()[0]
    except BrokenProcessPool:
        detail = "its decoder crashed; export it again"
        return "", Measures(reason="damaged", detail=detail), False


def _measure_chunk(paths: Sequence[Path], config: CurationConfig, kept: Store) -> _Found:
    with without_warnings():
        return [_measure(path, config, kept) for path in paths]


def _measure(path: Path, config: CurationConfig, kept: Store) -> tuple[str, Measures, bool]:
    try:
        if path.stat().st_size > _LARGEST:
            return "", Measures("too large", "more than 1 GiB; no picture is so large"), False
        data = path.read_bytes()
    except OSError as error:
        return "", Measures("unreadable", f"{error.strerror}; check the file"), False
    key = store.key(data, key_of(config))
    known = kept.get(key)
    return (key, known, False) if known else (key, measure(path.name, data, config), True)
