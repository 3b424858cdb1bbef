"""From a folder of pictures to a set one can train on, with an account of every picture."""

import os
import re
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from tqdm import tqdm

from blockwise_lora.imagesets.captioning import (
    Captioner,
    CaptioningConfig,
    CaptionRule,
    CaptionTable,
    Subject,
)
from blockwise_lora.imagesets.captioning.captioner import REVIEW
from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.decoding import without_warnings
from blockwise_lora.imagesets.duplicates import drop_duplicates
from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.folder import Listing, list_folder
from blockwise_lora.imagesets.images import ImageSet, Picture
from blockwise_lora.imagesets.report import CurationReport
from blockwise_lora.imagesets.review import Review
from blockwise_lora.imagesets.screening import Screened, Verdict, screen

# Below this resolution the base model is the embedded world's, which knows only drawings.
PHOTO_RESOLUTION = 256
# Of 4,096 pixels: emoji have up to 2,341 colours (the shaded sets; 1,700 at the 95th
# percentile), photographs 2,500 and more.
PHOTO_COLOURS = 2400


@dataclass(frozen=True)
class Screening:
    """A folder's pictures, judged and compared with each other; captions come next.

    Attributes:
        folder: as it was named.
        listing: what lies in it.
        pictures: every candidate with its verdict so far.
        config: what was asked for.
        review: what a person said of single pictures.
    """

    folder: Path
    listing: Listing
    pictures: tuple[Screened, ...]
    config: CurationConfig
    review: Review = field(default_factory=Review)

    @property
    def subjects(self) -> list[Subject]:
        """The kept pictures, as sources of captions see them: framed."""
        return [
            Subject(p.verdict.file, _picture(p, self.config).open, p.texts)
            for p in self.pictures
            if p.verdict.kept
        ]

    @property
    def licences(self) -> dict[str, str]:
        """Licences of single pictures, where a metadata file has a column for them."""
        rows = {p.candidate.file: p.candidate.row.values for p in self.pictures if p.candidate.row}
        found = {file: row.get("license") or row.get("licence") for file, row in rows.items()}
        return {file: words for file, words in found.items() if isinstance(words, str)}


def curate(
    folder: str | Path,
    captions: CaptionRule | Captioner,
    config: CurationConfig,
    *,
    progress: bool = False,
) -> tuple[ImageSet, CurationReport]:
    """Screen, caption and frame the pictures of a folder, which is only read.

    The result is lazy: pictures are decoded again when they are opened or written, so that the
    set need not fit in memory. It depends on files, captioner and configuration alone.

    Args:
        folder: pictures in any nesting and of mixed formats, with or without captions.
        captions: how captions are made; a rule alone takes what lies beside the pictures, and
            trigger and class word for those that have nothing.
        config: what is kept and how it is framed.
        progress: show a bar.

    Returns:
        The set, and the report on every picture that was found.

    Raises:
        ImageSetError: there is no such folder, its metadata is malformed, or nothing is left.
    """
    if isinstance(captions, CaptionRule):
        captions = CaptioningConfig().captioner(captions)
    return caption_pictures(screen_folder(folder, config, progress=progress), captions)


def screen_folder(
    folder: str | Path, config: CurationConfig, *, progress: bool = False
) -> Screening:
    """The first half of `curate`: what can be used, and what is there more than once.

    Raises:
        ImageSetError: there is no such folder, or its metadata is malformed.
    """
    folder = Path(folder)
    listing = list_folder(folder)
    screened = drop_duplicates(_screen_all(listing, config, folder.name, progress), config)
    return Screening(folder, listing, tuple(_named(screened)), config)


def caption_pictures(
    screening: Screening,
    captioner: Captioner,
    *,
    background: Screening | None = None,
) -> tuple[ImageSet, CurationReport]:
    """The second half of `curate`: captions, the finished set, and the report.

    Args:
        screening: of the folder; captions in its review win.
        captioner: how captions are made.
        background: pictures of something else, to tell the concept's own tags by.

    Raises:
        ImageSetError: nothing is left.
    """
    folder, config = screening.folder, screening.config
    others = background.subjects if background else ()
    written = {file: row.caption for file, row in screening.review.rows.items()}
    table = captioner(screening.subjects, review=written, background=others)
    captioned = [_captioned(p, table, captioner) for p in screening.pictures]
    verdicts = [picture.verdict for picture in captioned]
    verdicts += [_missing(row.path, folder, row.where) for row in screening.listing.missing]
    images = ImageSet(folder, tuple(_picture(p, config) for p in captioned if p.verdict.kept))
    report = CurationReport(
        folder=folder.as_posix(),
        verdicts=tuple(sorted(verdicts, key=lambda verdict: verdict.file)),
        others=screening.listing.others,
        warnings=(*_warnings(screening.listing, captioned, config), *table.warnings),
        sha256=images.sha256,
        resolution=config.resolution,
        captions=table,
    )
    if not images.pictures:
        raise ImageSetError(_nothing_left(folder, report))
    return images, report


def _screen_all(
    listing: Listing, config: CurationConfig, name: str, progress: bool
) -> list[Screened]:
    workers = config.workers or os.cpu_count() or 1
    with without_warnings(), ThreadPoolExecutor(workers) as pool:
        jobs = pool.map(lambda candidate: screen(candidate, config), listing.candidates)
        total = len(listing.candidates)
        return list(tqdm(jobs, total=total, desc=f"screening {name}", disable=not progress))


def _captioned(picture: Screened, table: CaptionTable, captioner: Captioner) -> Screened:
    """The picture with its caption, or dropped for want of one."""
    verdict = picture.verdict
    if not verdict.kept:
        return picture
    row, asked = table.of(verdict.file), captioner.names
    if picture.unreadable and "sidecar" in asked and row.source != REVIEW:
        verdict = replace(verdict, reason="caption unreadable", detail=picture.unreadable)
    elif not row.source:
        detail = f"none in {', '.join(asked)}; write a .txt beside it"
        verdict = replace(verdict, reason="no caption", detail=detail)
    else:
        words = {"caption_source": row.source, "own_caption": row.before, "caption": row.after}
        verdict = replace(verdict, **words)
    return replace(picture, verdict=verdict if verdict.kept else replace(verdict, output=""))


def _named(pictures: Sequence[Screened]) -> list[Screened]:
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


def _picture(screened: Screened, config: CurationConfig) -> Picture:
    verdict = screened.verdict
    return Picture(
        path=screened.candidate.path,
        file_name=verdict.output,
        caption=verdict.caption,
        width=config.resolution,
        height=config.resolution,
        sha256=screened.framed,
        source=verdict.file,
        framing=config.framing,
        max_megapixels=config.max_megapixels,
    )


def _missing(path: Path, folder: Path, where: str) -> Verdict:
    detail = f"listed in {where}, but there is no such file; add it or remove the row"
    return Verdict(file=path.relative_to(folder).as_posix(), reason="missing", detail=detail)


def _warnings(listing: Listing, pictures: Sequence[Screened], config: CurationConfig) -> list[str]:
    kept = [picture for picture in pictures if picture.verdict.kept]
    photos = sum(
        min(picture.verdict.width, picture.verdict.height) > PHOTO_RESOLUTION
        and picture.colours > PHOTO_COLOURS
        for picture in kept
    )
    found = []
    if config.resolution < PHOTO_RESOLUTION and photos * 2 > len(kept):
        found.append(
            f"{photos} of {len(kept)} pictures look like photographs, and the base model of "
            f"{config.resolution} pixels has only seen emoji; photographs belong with --env sd15"
        )
    if listing.lonely_captions:
        names = ", ".join(listing.lonely_captions[:3])
        count = len(listing.lonely_captions)
        found.append(f"{count} caption files have no picture of the same name: {names}")
    return found


def _nothing_left(folder: Path, report: CurationReport) -> str:
    if not report.verdicts:
        return f"{folder}: no pictures in it; put some there, or correct the path"
    lines = [f"{folder}: none of {len(report.verdicts)} pictures can be used"]
    lines += [f"  {v.file}: {v.reason}: {v.detail}" for v in report.dropped[:10]]
    if len(report.dropped) > 10:
        lines.append(f"  and {len(report.dropped) - 10} more")
    return "\n".join(lines)
