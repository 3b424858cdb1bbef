"""A bar with loss, speed and time left; a line every 10 s where there is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress(names: Sequence[str], total: int, done: int) -> Iterator[tqdm]:
    """Show a bar.

    Args:
        names: of the adapters that train; a long list is cut.
        total: steps in all.
        done: steps that an earlier process did.
    """
    interval = 0.2 if sys.stderr.isatty() else 10.0
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    with tqdm(
        desc=f"training {shown}",
        total=total,
        initial=done,
        unit="step",
        mininterval=interval,
        maxinterval=max(10.0, interval),
        dynamic_ncols=True,
    ) as bar:
        yield bar
