"""Writing that leaves either the old content or the new, never half of it.

Everything is written under a temporary name beside the target, on the same file system, and
renamed at the end. Disk and permission problems become a `WriteError` that names the target.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blockwise_lora.errors import UserError


class WriteError(UserError):
    """A file or folder cannot be written."""


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, creating parent folders.

    Raises:
        WriteError: the target is not writable or the disk is full; the old file is intact.
    """
    target = Path(path)
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, _mode(0o666))  # mkstemp makes 0600, which others cannot read
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8 with the line ends that it has.

    Raises:
        WriteError: the target is not writable or the disk is full; the old file is intact.
    """
    write_bytes(path, text.encode("utf-8"))


@contextmanager
def replace_folder(target: str | Path) -> Iterator[Path]:
    """Fill a new folder that takes the place of `target` when the block ends without error.

    Yields:
        An empty temporary folder beside `target`. On an exception it is removed and `target`
        stays as it was.

    Raises:
        WriteError: the target is not writable, is a file, or the disk is full.
    """
    target = Path(target)
    with _explained(target):
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        new, old = scratch / "new", scratch / "old"
        try:
            new.mkdir()
            yield new
            if target.exists():
                os.rename(target, old)
            try:
                os.rename(new, target)
            except OSError:
                if old.exists():
                    os.rename(old, target)
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _mode(full: int) -> int:
    """`full` less the process's umask, as a plain `open` would give."""
    umask = os.umask(0)
    os.umask(umask)
    return full & ~umask


_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space and run again",
    errno.EDQUOT: "your disk quota is used up: free some space and run again",
    errno.EACCES: "permission denied: make the folder writable or choose another one",
    errno.EPERM: "not permitted: make the folder writable or choose another one",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away or choose another path",
    errno.EEXIST: "a file stands where a folder is needed: move it away or choose another path",
    errno.EISDIR: "a folder stands where a file is needed: move it away or choose another path",
}


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn the operating system's write errors into a `WriteError` about `target`."""
    try:
        yield
    except OSError as error:
        # The caller's own work inside the block may fail on other files: not ours to explain.
        if error.errno not in _REMEDIES or not _concerns(error, target):
            raise
        raise WriteError(f"cannot write {target}: {_REMEDIES[error.errno]}") from error


def _concerns(error: OSError, target: Path) -> bool:
    """Whether the error is about `target`, a folder above it, or what is written beside it."""
    if error.filename is None:  # write() and fsync() name no file
        return True
    path = Path(os.fsdecode(error.filename)).absolute()
    target = target.absolute()
    return path.is_relative_to(target.parent) or target.is_relative_to(path)
