"""File names that every system can hold."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from blockwise_lora.imagesets.screening import Screened


def named(pictures: Sequence[Screened]) -> list[Screened]:
    """Give each kept picture a file name that every system can hold."""
    taken: set[str] = set()
    named = []
    for picture in pictures:
        if picture.verdict.kept:
            name = file_name(picture.candidate.file)
            if name in taken:
                mark = sha256(picture.candidate.file.encode()).hexdigest()[:8]
                name = f"{name.removesuffix('.png')}-{mark}.png"
            taken.add(name)
            picture = replace(picture, verdict=replace(picture.verdict, output=name))
        named.append(picture)
    return named


def file_name(file: str) -> str:
    """A flat ASCII name for a file in a folder: `sub/Cat 1.JPG` becomes `sub-cat-1.png`."""
    stem = file.rsplit(".", 1)[0] if "." in file.rsplit("/", 1)[-1] else file
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:80]
    return f"{slug or 'picture'}.png"
