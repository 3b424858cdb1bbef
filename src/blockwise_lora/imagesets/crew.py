"""Work on many files, spread over the cores; what was measured before is only looked up."""

import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice
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
CRASHED = "its decoder crashed; export it again"

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
    with ProcessPoolExecutor(workers, mp_context=_context()) as pool:
        with warnings.catch_warnings():
            # Newer Pythons warn of NumPy's own threads, whose library is prepared for a fork.
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            results = pool.map(function, chunks)
        yield from results


def _context() -> multiprocessing.context.BaseContext:
    """Forked processes start at once, but inherit the locks of PyTorch's and MLflow's threads."""
    alone = threading.active_count() == 1 and "torch" not in sys.modules
    return multiprocessing.get_context("fork" if alone and sys.platform == "linux" else "spawn")


def one_by_one(
    function: Callable[[Sequence[Item]], list[Result]],
    items: Sequence[Item],
    lost: Result,
    workers: int | None = None,
) -> Iterator[Result]:
    """The result of each item; what brings a decoder down costs that process only.

    Args:
        function: of a few items to as many results; see `in_chunks`.
        items: all of them.
        lost: the result of an item that its process does not survive.
        workers: processes; None takes one a core.
    """
    done, broken = 0, False
    while done < len(items):
        # What has brought a process down may do so again: not in this one.
        if broken:
            few = items[done : done + _CHUNK]
            yield from _guarded(function, few, lost)
            done, broken = done + len(few), len(items) - done - len(few) < _ALONE
            continue
        try:
            for results in in_chunks(function, items[done:], workers):
                done += len(results)
                yield from results
        except BrokenProcessPool:
            broken = True


def _guarded(
    function: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], lost: Result
) -> list[Result]:
    """A few items in a process of their own; the halves of what it does not survive likewise."""
    try:
        with ProcessPoolExecutor(1, mp_context=_context()) as pool:
            return pool.submit(function, items).result()
    except BrokenProcessPool:
        if len(items) == 1:
            return [lost]
        half = len(items) // 2
        return [
            result
            for part in (items[:half], items[half:])
            for result in _guarded(function, part, lost)
        ]


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
    work = partial(_measure_chunk, config=config, kept=kept)
    lost = "", Measures(reason="damaged", detail=CRASHED), False
    found = one_by_one(work, paths, lost, config.workers)
    with tqdm(total=len(paths), desc=progress, disable=not progress) as bar:
        while few := list(islice(found, _CHUNK)):
            kept.put((key, measures) for key, measures, new in few if new and key)
            yield from (measures for _, measures, _ in few)
            bar.update(len(few))


_Found = tuple[str, Measures, bool]  # its key, and whether it was measured anew


def _measure_chunk(paths: Sequence[Path], config: CurationConfig, kept: Store) -> list[_Found]:
    with without_warnings():
        return [_measure(path, config, kept) for path in paths]


def _measure(path: Path, config: CurationConfig, kept: Store) -> _Found:
    try:
        if path.stat().st_size > _LARGEST:
            return "", Measures("too large", "more than 1 GiB; no picture is so large"), False
        data = path.read_bytes()
    except OSError as error:
        return "", Measures("unreadable", f"{error.strerror}; check the file"), False
    key = store.key(data, key_of(config))
    known = kept.get(key)
    return (key, known, False) if known else (key, measure(path.name, data, config), True)
