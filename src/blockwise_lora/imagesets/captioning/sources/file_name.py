"""Captions out of file names: `Red_Apple (2).jpg` is "red apple"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from blockwise_lora.imagesets.captioning.subject import Subject

# Names that cameras, phones and programs give by themselves.
_MACHINE = frozenset(
    {"img", "image", "dsc", "dscn", "dscf", "dcim", "pxl", "mvi", "vid", "wa", "photo", "picture"}
    | {"pic", "screenshot", "scan", "untitled", "download", "file", "frame", "copy", "new"}
)


@dataclass(frozen=True)
class FileName:
    """The words of a file's name, where a person gave it one."""

    name: str = "file_name"

    def captions(self, subjects: Sequence[Subject]) -> list[str | None]:
        return [words(subject.file) or None for subject in subjects]


def words(file: str) -> str:
    """The words in a file's name, lower case; empty for names that machines give.

    Numbers at either end are counters and are left out, as are hexadecimal hashes; commas stay,
    so that a name may hold tags.
    """
    stem = PurePosixPath(file).stem
    parts = re.sub(r"[_\-+.()\[\]\s]+", " ", stem).lower().split()
    parts = [part for part in parts if not _is_hash(part.strip(","))]
    while parts and parts[0].strip(",").isdigit():
        parts.pop(0)
    while parts and parts[-1].strip(",").isdigit():
        parts.pop()
    # "IMG_1234", "img1234"
    meaning = [part for part in parts if re.sub(r"[\d,]+$", "", part) not in _MACHINE | {""}]
    return " ".join(parts).strip(" ,") if meaning else ""


def _is_hash(part: str) -> bool:
    return len(part) >= 8 and bool(re.fullmatch(r"(?=.*\d)[0-9a-f]+", part))
