"""The account of a curation: every input picture, kept or dropped, and why."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from blockwise_lora.imagesets.captioning import CaptionTable
from blockwise_lora.imagesets.review import Review
from blockwise_lora.imagesets.screening import Verdict


@dataclass(frozen=True)
class CurationReport:
    """What became of a folder.

    Attributes:
        folder: the folder as it was named.
        root: where its pictures lie on this machine.
        verdicts: one for each input picture, in the order of names.
        others: files that are no pictures by their names.
        warnings: what the user should know, in words.
        sha256: of the resulting set.
        resolution: side of the prepared squares in pixels.
        captions: what every caption was made from, and the concept's own tags.
        review: what a person said of single pictures.
    """

    folder: str
    root: Path
    verdicts: tuple[Verdict, ...]
    others: tuple[str, ...]
    warnings: tuple[str, ...]
    sha256: str
    resolution: int
    captions: CaptionTable
    review: Review = field(default_factory=Review)

    @property
    def kept(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.kept)

    @property
    def dropped(self) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if not verdict.kept)

    def summary(self) -> dict[str, Any]:
        """Counts and warnings, fit for JSON."""
        return {
            "folder": self.folder,
            "in": len(self.verdicts),
            "kept": len(self.kept),
            "dropped": len(self.dropped),
            "reasons": _counts(verdict.reason for verdict in self.dropped),
            "flags": _counts(f.split(" (")[0] for verdict in self.kept for f in verdict.flags),
            "reviewed": sum(bool(verdict.decision) for verdict in self.verdicts),
            "shown_in_a_pass": sum(verdict.repeats for verdict in self.kept),
            "caption_sources": _counts(verdict.caption_source for verdict in self.kept),
            **self.captions.summary(),
            "notes": _counts(note for verdict in self.verdicts for note in verdict.notes),
            "resolution": self.resolution,
            "sha256": self.sha256,
            "warnings": list(self.warnings),
            "other_files": list(self.others),
        }

    def rows(self) -> list[dict[str, Any]]:
        """The table, one row for each input picture."""
        return [
            {
                "file": verdict.file,
                "status": "kept" if verdict.kept else "dropped",
                **{k: v for k, v in asdict(verdict).items() if k not in ("file", "notes", "flags")},
                "flags": "; ".join(verdict.flags),
                "notes": "; ".join(verdict.notes),
            }
            for verdict in self.verdicts
        ]


def _counts(words: Any) -> dict[str, int]:
    counts = Counter(words)
    return {word: counts[word] for word in sorted(counts)}
