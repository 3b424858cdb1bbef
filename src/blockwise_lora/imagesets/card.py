"""The data card: what a set holds, where it is from, under which licence, and its hashes.

It is the set's README.md in the form that the Hugging Face hub shows. It says nothing about the day
or the machine, so that the same set has the same card.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from blockwise_lora.imagesets.images import ImageSet
from blockwise_lora.imagesets.report import CurationReport

CARD, METADATA = "README.md", "metadata.jsonl"
MARK = "<!-- Written by the curation of blockwise-lora; a new run replaces it. -->"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))


@dataclass(frozen=True)
class Origin:
    """What the user says about a set's pictures.

    Attributes:
        name: of the set, for its heading.
        source: who made the pictures and where they are from, in words.
        licence: theirs, in words; an SPDX name where there is one.
    """

    name: str
    source: str | None = None
    licence: str | None = None


def is_card(path: Path) -> bool:
    """Whether a file is a card that was written here, and not somebody's own README."""
    return path.is_file() and MARK in path.read_text(encoding="utf-8", errors="replace")


def data_card(
    images: ImageSet,
    report: CurationReport,
    origin: Origin,
    licences: Mapping[str, str] | None = None,
) -> str:
    """The card's text.

    Args:
        images: the finished set.
        report: how it came about.
        origin: what the user says about it.
        licences: licence of single originals, by file, where a metadata file has one.
    """
    sections = [
        _head(images, origin),
        f"{MARK}\n\n# {origin.name}",
        _counts(images, report),
        _sources(images, origin, licences or {}),
        _captions(report),
        _hashes(images),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(images: ImageSet, origin: Origin) -> str:
    size = next((name for most, name in SIZES if len(images) < most), "n>100K")
    # "other" with a name is what the hub has for everything that is not in its list.
    head = {
        "pretty_name": origin.name,
        "license": "other" if origin.licence else "unknown",
        **({"license_name": origin.licence} if origin.licence else {}),
        "task_categories": ["text-to-image"],
        "size_categories": [size],
        # Or `datasets` would take as many .txt files as pictures, kohya's, for a set of texts.
        "configs": [{"config_name": "default", "data_files": [METADATA, "**/*.png"]}],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---"


def _counts(images: ImageSet, report: CurationReport) -> str:
    sizes = Counter(f"{picture.width}x{picture.height}" for picture in images)
    rows = [
        ("pictures found", len(report.verdicts)),
        ("dropped", len(report.dropped)),
        *((f"dropped: {reason}", n) for reason, n in _sorted(v.reason for v in report.dropped)),
        ("kept", len(images)),
        *((f"kept, {size} pixels", n) for size, n in sorted(sizes.items())),
        ("with a mask", sum(picture.mask is not None for picture in images)),
        ("shown in one pass", sum(picture.repeats for picture in images)),
    ]
    return "## Counts\n\n" + _table(("", "number"), rows)


def _sources(images: ImageSet, origin: Origin, licences: Mapping[str, str]) -> str:
    folders = _sorted(picture.source.rpartition("/")[0] or "." for picture in images)
    each = _sorted(licences.get(picture.source, "not stated") for picture in images)
    lines = [
        "## Sources and licences",
        "",
        f"Source: {(origin.source or 'not stated').rstrip('.')}.",
        f"Licence: {(origin.licence or 'not stated').rstrip('.')}.",
        "",
        _table(("sub-folder", "pictures"), folders),
    ]
    if any(name != "not stated" for name, _ in each):
        lines += ["", _table(("licence of single pictures", "pictures"), each)]
    return "\n".join(lines)


def _captions(report: CurationReport) -> str:
    sources = _sorted(verdict.caption_source for verdict in report.kept)
    lines = ["## Captions", "", _table(("source", "captions"), sources)]
    own = [tag.tag for tag in report.captions.concept_tags if tag.own]
    if own:
        what = "taken out" if report.captions.removed else "left in"
        lines += ["", f"Tags that all pictures share, {what}: {', '.join(own)}."]
    return "\n".join(lines)


def _hashes(images: ImageSet) -> str:
    return "\n".join(
        (
            "## Hashes",
            "",
            f"All pictures and captions: sha256 `{images.sha256}`.",
            f"Every picture's own is in `{METADATA}`; it is taken of the pixels, whatever file",
            "format holds them.",
        )
    )


def _sorted(words: Iterable[str]) -> list[tuple[str, int]]:
    return sorted(Counter(words).items())


def _table(head: tuple[str, str], rows: Iterable[tuple[str, int]]) -> str:
    # A pipe in a name would end the cell.
    cells = [f"| {name.replace('|', chr(92) + '|')} | {n} |" for name, n in rows]
    return "\n".join((f"| {head[0]} | {head[1]} |", "|---|---|", *cells))
