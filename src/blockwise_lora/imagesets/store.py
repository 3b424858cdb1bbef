"""What was measured before: one SQLite file, by the hash of a file's bytes and configuration."""

import hashlib
import logging
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from blockwise_lora.imagesets.measures import Measures

logger = logging.getLogger(__name__)

_WAIT = 30.0  # seconds for another process to finish writing


class Store:
    """Measures by key; damage or a full disk costs time, never a run.

    A key names bytes and configuration, so that nothing in it is ever out of date.
    """

    def __init__(self, path: Path | None):
        """Name the file, which is made with the first measures.

        Args:
            path: None keeps nothing.
        """
        self._path = path

    def get(self, key: str) -> Measures | None:
        """What is known under a key."""
        if self._path is None or not self._path.exists():
            return None
        try:
            with self._open() as database:
                row = database.execute("SELECT value FROM measures WHERE key = ?", (key,))
                found = row.fetchone()
            return Measures.from_bytes(found[0]) if found else None
        except (sqlite3.Error, ValueError, TypeError, KeyError):
            return None

    def put(self, measures: Iterable[tuple[str, Measures]]) -> None:
        """Keep measures, all or none of them."""
        rows = [(key, value.to_bytes()) for key, value in measures]
        if self._path is None or not rows:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write(rows)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                logger.warning("measures are not kept for the next run: %s", error)
                return
            self._path.unlink(missing_ok=True)  # no database, or a damaged one: begin anew
            self._write(rows)
        except OSError as error:
            logger.warning("measures are not kept for the next run: %s", error)

    def _write(self, rows: list[tuple[str, bytes]]) -> None:
        with self._open() as database, database:
            database.execute(
                "CREATE TABLE IF NOT EXISTS measures (key TEXT PRIMARY KEY, value BLOB)"
            )
            database.executemany("INSERT OR REPLACE INTO measures VALUES (?, ?)", rows)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._path, timeout=_WAIT)) as database:
            yield database


def key(data: bytes, configuration: str) -> str:
    """The name of a file's measures."""
    total = hashlib.sha256(data)
    total.update(configuration.encode())
    return total.hexdigest()
