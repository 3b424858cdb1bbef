"""From a folder of pictures to a set one can train on, with an account of every picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from blockwise_lora.imagesets.balance import balanced, dominance
from blockwise_lora.imagesets.captioning import (
    Captioner,
    CaptioningConfig,
    CaptionRule,
    CaptionTable,
    Encoder,
    Subject,
)
from blockwise_lora.imagesets.captioning.table import REVIEW
from blockwise_lora.imagesets.config import CurationConfig
from blockwise_lora.imagesets.crew import measure_files
from blockwise_lora.imagesets.duplicates import drop_duplicates
from blockwise_lora.imagesets.errors import ImageSetError
from blockwise_lora.imagesets.folder import Listing, list_folder
from blockwise_lora.imagesets.images import ImageSet, Mask, Picture
from blockwise_lora.imagesets.judging import judged
from blockwise_lora.imagesets.naming import named
from blockwise_lora.imagesets.report import CurationReport
from blockwise_lora.imagesets.review import Review, read_review
from blockwise_lora.imagesets.screening import Screened, Verdict, screen
from blockwise_lora.imagesets.shelf import Shelf
from blockwise_lora.imagesets.sources import local_folder
from blockwise_lora.imagesets.store import Store

# Below this resolution the base model is the embedded world's, which knows only drawings.
PHOTO_RESOLUTION = 256
# Of 4,096 pixels: emoji have up to 2,341 colours (the shaded sets; 1,700 at the 95th
# percentile), photographs 2,500 and more.
PHOTO_COLOURS = 2400
MISNAMED = "the name is not UTF-8, which no table can hold; rename the file or its folder"


@dataclass(frozen=True)
class Screening:
    """A folder's pictures, judged and compared with each other; captions come next.

    Attributes:
        source: as it was named.
        folder: where its pictures lie on this machine.
        listing: what lies in it.
        pictures: every candidate with its verdict so far.
        config: what was asked for.
        review: what a person said of single pictures.
        warnings: what the user should know of the pictures as a whole, in words.
    """

    source: str
    folder: Path
    listing: Listing
    pictures: tuple[Screened, ...]
    config: CurationConfig
    review: Review = field(default_factory=Review)
    warnings: tuple[str, ...] = ()

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
    review: str | Path | None = None,
    cache: Path | None = None,
    progress: bool = False,
) -> tuple[ImageSet, CurationReport]:
    """Screen, caption and frame the pictures of a folder, which is only read.

    The result is lazy: pictures are decoded again when they are opened or written, so that the
    set need not fit in memory. It depends on files, captioner and configuration alone.

    Args:
        folder: pictures in any nesting and of mixed formats, with or without captions: a folder, an
            archive, a table, or a remote path, see `sources`.
        captions: how captions are made; a rule alone takes what lies beside the pictures, and
            trigger and class word for those that have nothing.
        config: what is kept and how it is framed.
        review: see `screen_folder`.
        cache: see `screen_folder`.
        progress: show a bar.

    Returns:
        The set, and the report on every picture that was found.

    Raises:
        ImageSetError: there is no such folder, its metadata is malformed, or nothing is left.
    """
    if isinstance(captions, CaptionRule):
        captions = CaptioningConfig().captioner(captions)
    screening = screen_folder(folder, config, review=review, cache=cache, progress=progress)
    return caption_pictures(screening, captions)


def screen_folder(
    folder: str | Path,
    config: CurationConfig,
    *,
    review: str | Path | None = None,
    cache: Path | None = None,
    judge: Encoder | None = None,
    progress: bool = False,
) -> Screening:
    """The first half of `curate`: what can be used, and what is there more than once.

    Args:
        folder: see `curate`.
        config: what is kept and how it is framed.
        review: a file with a person's decisions, which win; see `review`.
        cache: where measures are kept from one run to the next, and where archives and remote
            folders are unpacked; None keeps nothing, and only folders on this machine can be read.
        judge: for the checks that need one.
        progress: show a bar.

    Raises:
        ImageSetError: there is no such folder, or its metadata is malformed.
    """
    source, folder = str(folder), local_folder(folder, cache)
    listing, reviewed = list_folder(folder), read_review(review)
    kept = Store(cache / "measures.sqlite" if cache else None)
    words = f"screening {PurePosixPath(source).name}" if progress else ""
    paths = [candidate.path for candidate in listing.candidates]
    with Shelf(cache) as shelf:
        screened = []
        measures = measure_files(paths, config, kept, progress=words)
        for candidate, measured in zip(listing.candidates, measures, strict=True):
            shelf.put(measured.looks)
            measured = replace(measured, looks=b"")
            screened.append(screen(candidate, measured, reviewed.of(candidate.file), config))
        screened, warnings = drop_duplicates(screened, shelf.__getitem__, config), []
        if judge:
            screened, warnings = judged(screened, judge, config)
        screened = named(balanced(screened, config))
        # Emoji are all drawn alike, on white: there is nothing to be said of those.
        if config.resolution >= PHOTO_RESOLUTION:
            warnings += dominance(screened, shelf.__getitem__)
    return Screening(source, folder, listing, tuple(screened), config, reviewed, tuple(warnings))


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
    verdicts += [
        Verdict(file=f, reason="misnamed", detail=MISNAMED) for f in screening.listing.misnamed
    ]
    images = ImageSet(folder, tuple(_picture(p, config) for p in captioned if p.verdict.kept))
    report = CurationReport(
        folder=screening.source,
        root=folder,
        verdicts=tuple(sorted(verdicts, key=lambda verdict: verdict.file)),
        others=screening.listing.others,
        warnings=(*_warnings(screening, captioned), *table.warnings),
        sha256=images.sha256,
        resolution=config.resolution,
        captions=table,
        review=screening.review,
    )
    if not images.pictures:
        raise ImageSetError(_nothing_left(report))
    return images, report


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


def _picture(screened: Screened, config: CurationConfig) -> Picture:
    verdict, measures = screened.verdict, screened.measures
    width, height = config.framing.size(verdict.width, verdict.height)
    path = screened.candidate.path
    return Picture(
        path=path,
        file_name=verdict.output,
        caption=verdict.caption,
        width=width,
        height=height,
        sha256=measures.framed,
        source=verdict.file,
        framing=replace(config.framing, focus=measures.focus),
        max_megapixels=config.max_megapixels,
        repeats=verdict.repeats,
        mask=Mask(path, measures.mask, of_alpha=True) if measures.mask else None,
    )


def _missing(path: Path, folder: Path, where: str) -> Verdict:
    detail = f"listed in {where}, but there is no such file; add it, or correct or remove the row"
    return Verdict(file=path.relative_to(folder).as_posix(), reason="missing", detail=detail)


def _warnings(screening: Screening, pictures: Sequence[Screened]) -> list[str]:
    kept = [picture for picture in pictures if picture.verdict.kept]
    listing, config = screening.listing, screening.config
    photos = sum(
        min(picture.verdict.width, picture.verdict.height) > PHOTO_RESOLUTION
        and picture.measures.colours > PHOTO_COLOURS
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
    if gone := screening.review.unknown(picture.verdict.file for picture in pictures):
        found.append(
            f"{screening.review.path} speaks of {len(gone)} pictures that are not there: "
            + ", ".join(gone[:3])
        )
    return [*found, *screening.warnings]


def _nothing_left(report: CurationReport) -> str:
    if not report.verdicts:
        return f"{report.folder}: no pictures in it; put some there, or correct the path"
    lines = [f"{report.folder}: none of {len(report.verdicts)} pictures can be used"]
    lines += [f"  {v.file}: {v.reason}: {v.detail}" for v in report.dropped[:10]]
    if len(report.dropped) > 10:
        lines.append(f"  and {len(report.dropped) - 10} more")
    return "\n".join(lines)
