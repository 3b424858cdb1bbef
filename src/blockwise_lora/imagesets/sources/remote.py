"""Folders and files behind fsspec addresses (s3://, gs://, https://, memory://) to the cache."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from blockwise_lora.atomic import write_text
from blockwise_lora.imagesets.errors import ImageSetError

_STAMP, _PART = ".fetched.json", ".part"
_AT_ONCE = 64  # files that are asked for together; each waits for an answer most of its time


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
    system, root, single, found = _listed(address)
    parent = root.rpartition("/")[0] if single else root
    names = {_relative(path, parent, address): path for path in sorted(found)}
    now = {name: _version(system, path, found[path]) for name, path in names.items()}
    known = _known(target)
    for name in known.keys() - now.keys():
        (target / name).unlink(missing_ok=True)
    fresh = {n: known[n] for n in now if known.get(n) == now[n] and (target / n).is_file()}
    stale = [name for name in now if name not in fresh]
    try:
        for start in range(0, len(stale), _AT_ONCE):
            some = stale[start : start + _AT_ONCE]
            _copy(system, {names[name]: target / name for name in some}, address)
            fresh |= {name: now[name] for name in some}
    finally:
        # What is here when the line breaks need not be fetched again.
        write_text(target / _STAMP, json.dumps(fresh))
    return target / next(iter(now)) if single else target


def _listed(address: str) -> tuple[Any, str, bool, dict[str, dict[str, Any]]]:
    """File system, path in it, whether that is a file, and the files there with what is known."""
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(address)
        single = system.isfile(root)
        found = {root: system.info(root)} if single else system.find(root, detail=True)
    except (ImportError, ValueError) as error:
        raise ImageSetError(f"{address} cannot be opened: {error}") from error
    except Exception as error:  # every system has errors of its own, such as missing credentials
        raise ImageSetError(
            f"{address} cannot be read ({error}); check address and credentials"
        ) from error
    # Some programs store a folder as an empty file whose name ends in a slash.
    found = {path: info for path, info in found.items() if not path.endswith("/")}
    if not found:
        raise ImageSetError(f"{address}: no such folder, or nothing in it; correct the address")
    return system, root, single, found


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


def _copy(system: Any, files: Mapping[str, Path], address: str) -> None:
    """Fetch files; those that are there stay whole until the new ones are."""
    parts = [local.with_name(local.name + _PART) for local in files.values()]
    for local in files.values():
        local.parent.mkdir(parents=True, exist_ok=True)
    try:
        system.get(list(files), [str(part) for part in parts])
        for part, local in zip(parts, files.values(), strict=True):
            part.replace(local)
    except Exception as error:
        for part in parts:
            part.unlink(missing_ok=True)
        raise ImageSetError(f"{address} cannot be copied ({error}); start again") from error
