"""Folders and files behind fsspec addresses (s3://, gs://, https://, memory://) to the cache."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from blockwise_lora.atomic import write_bytes, write_text
from blockwise_lora.imagesets.errors import ImageSetError

_STAMP = ".fetched.json"


def is_remote(place: str | Path) -> bool:
    """Whether a place has a protocol, such as s3://."""
    return "://" in str(place)


def fetch(address: str, target: Path) -> Path:
    """Copy what lies at an address; what has not changed since the last time stays.

    Args:
        address: of a folder or a file.
        target: the folder for the copy.

    Returns:
        `target`, or the file in it where the address is a file's.

    Raises:
        ImageSetError: nothing is there, the protocol is unknown or needs a package, or a name
            leads out of the folder.
    """
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(address)
        single = system.isfile(root)
        found = {root: system.info(root)} if single else system.find(root, detail=True)
    except (ImportError, ValueError) as error:
        raise ImageSetError(f"{address} cannot be opened: {error}") from error
    except OSError as error:
        raise ImageSetError(f"{address} cannot be read ({error}); check the address") from error
    if not found:
        raise ImageSetError(f"{address}: no such folder, or nothing in it; correct the address")
    parent = root.rpartition("/")[0] if single else root
    known, now = _known(target), {}
    for path, info in sorted(found.items()):
        name = _relative(path, parent, address)
        now[name] = _version(system, path, info)
        local = target / name
        if known.get(name) != now[name] or not local.is_file():
            _copy(system, path, local, address)
    for name in known.keys() - now.keys():
        (target / name).unlink(missing_ok=True)
    write_text(target / _STAMP, json.dumps(now))
    return target / next(iter(now)) if single else target


def _known(target: Path) -> dict[str, str]:
    try:
        known = json.loads((target / _STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _relative(path: str, parent: str, address: str) -> str:
    name = path.removeprefix(parent).lstrip("/")
    if ".." in PurePosixPath(name).parts or "\\" in name or ":" in name.split("/")[0]:
        raise ImageSetError(f"{address}: {name!r} leads out of the folder")
    return name


def _version(system: Any, path: str, info: dict[str, Any]) -> str:
    """What changes with the content: the store's own mark, else size and time."""
    marks = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
    mark = next((str(info[key]) for key in marks if info.get(key)), None)
    return f"{info.get('size')} {mark or system.ukey(path)}"


def _copy(system: Any, path: str, local: Path, address: str) -> None:
    try:
        write_bytes(local, system.cat_file(path))
    except OSError as error:
        raise ImageSetError(f"{address}: {path} cannot be read ({error})") from error
