"""Where pictures come from: whatever it is, curation sees a folder on this machine.

Archives are unpacked, tables written out as files, and remote folders copied into the cache, one
folder for each place; what has not changed there is not fetched again.
"""

import hashlib
from pathlib import Path

from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.sources.archives import is_archive, unpack
from blockwise_lora.imagesets.sources.remote import fetch, is_remote
from blockwise_lora.imagesets.sources.tables import has_tables, is_table, write_out

__all__ = ["local_folder"]


def local_folder(place: str | Path, cache: Path | None = None) -> Path:
    """The folder that holds the pictures of a place.

    Args:
        place: a folder; a .zip or .tar (.gz, .bz2, .xz); a Parquet file; a folder of Parquet or
            Arrow files, such as `datasets` saves; or any of these behind an fsspec address.
        cache: where copies are kept.

    Raises:
        ImageSetError: there is no such place, it is damaged or dangerous, or a cache is needed.
    """
    path = Path(place)
    if is_remote(place):
        path = fetch(str(place), _copy(place, cache, "remote"))
    if path.is_file() and is_archive(path):
        path = unpack(path, _copy(path, cache, "archive"))
    if is_table(path) or has_tables(path):
        path = write_out(path, _copy(path, cache, "table"))
    return path


def _copy(place: str | Path, cache: Path | None, kind: str) -> Path:
    if cache is None:
        raise ImageSetError(f"{place} must be copied to be read; pass a cache folder")
    name = str(place) if is_remote(place) else str(Path(place).resolve())
    return cache / kind / hashlib.sha256(name.encode()).hexdigest()[:16]
