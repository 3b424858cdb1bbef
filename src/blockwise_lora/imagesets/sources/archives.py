"""Zip and tar archives to folders; nothing in them can write elsewhere or fill the disk."""

import json
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from blockwise_lora.atomic import replace_folder
from blockwise_lora.imagesets.errors import ImageSetError

_MOST_MEMBERS = 2_000_000
_MOST_BYTES = 1 << 40  # 1 TiB unpacked
# Pictures hardly shrink: an archive that grows more than this is a bomb. Small ones may, since a
# gigabyte fills no disk.
_MOST_GROWTH, _HARMLESS = 100, 1 << 30
_STAMP = ".unpacked.json"


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    source: BinaryIO


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or a tar by its content."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(archive: Path, target: Path) -> Path:
    """Unpack an archive's files; links and devices in it are left out.

    Args:
        archive: the file.
        target: the folder; one that holds this very archive's content already is left as it is.

    Raises:
        ImageSetError: a member would be written elsewhere, the archive is damaged, encrypted or a
            bomb.
        WriteError: the disk is full.
    """
    status = archive.stat()
    stamp = json.dumps([archive.name, status.st_size, status.st_mtime_ns])
    if (target / _STAMP).is_file() and (target / _STAMP).read_text(encoding="utf-8") == stamp:
        return target
    limit = max(_HARMLESS, min(_MOST_BYTES, status.st_size * _MOST_GROWTH))
    try:
        with replace_folder(target) as new:
            members = _zip(archive) if zipfile.is_zipfile(archive) else _tar(archive)
            _write(members, new, archive, limit)
            (new / _STAMP).write_text(stamp, encoding="utf-8")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError, ValueError) as error:
        raise ImageSetError(f"{archive} cannot be unpacked ({error}); pack it again") from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageSetError(f"{archive} cannot be unpacked ({error}); pack it again") from error
    except Exception as error:  # zlib.error and lzma.LZMAError have no common ancestor
        if type(error).__module__ not in ("zlib", "_lzma", "lzma"):
            raise
        raise ImageSetError(f"{archive} cannot be unpacked ({error}); pack it again") from error
    return target


def _write(members: Iterator[_Member], folder: Path, archive: Path, limit: int) -> None:
    total = 0
    for count, member in enumerate(members, start=1):
        if count > _MOST_MEMBERS:
            raise ImageSetError(f"{archive} has more than {_MOST_MEMBERS} files; split it")
        path = folder / _inside(member.name, archive)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            # What the header says may be a lie: count what comes out.
            while block := member.source.read(1 << 20):
                total += len(block)
                if total > limit:
                    raise ImageSetError(
                        f"{archive} unpacks to more than {limit >> 20} MiB, which no pictures do; "
                        "unpack it yourself if you trust it"
                    )
                file.write(block)


def _inside(name: str, archive: Path) -> PurePosixPath:
    """The member's relative path.

    Raises:
        ImageSetError: it would lie outside of the folder.
    """
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ImageSetError(
            f"{archive}: its member {name!r} would be written outside of the folder; this archive "
            "is not to be trusted"
        )
    return posix


def _zip(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG):
                continue
            if info.flag_bits & 0x1:
                raise ImageSetError(f"{archive} is encrypted; unpack it yourself")
            with file.open(info) as source:
                yield _Member(info.filename, info.file_size, source)


def _tar(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as file:
        for info in file:
            if info.isfile():
                yield _Member(info.name, info.size, file.extractfile(info))
