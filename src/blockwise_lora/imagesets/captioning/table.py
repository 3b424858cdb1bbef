"""The caption table: what every picture's caption was made from, and into what."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from blockwise_lora.imagesets.captioning.concept import ConceptTag
from blockwise_lora.imagesets.captioning.tags import join_tags
from blockwise_lora.imagesets.review import Review

REVIEW = "review"
"""The source of a caption that a person wrote."""


@dataclass(frozen=True)
class CaptionRow:
    """One picture.

    Attributes:
        file: its name in the folder of originals.
        source: where the caption is from; `review` where a person wrote it; empty where no
            source had one.
        before: what the source says.
        after: what is trained on.
        removed: the concept's own tags, taken out.
        tokens: of `after`, those of start and end included; None where nobody counted.
    """

    file: str
    source: str
    before: str
    after: str
    removed: tuple[str, ...] = ()
    tokens: int | None = None


@dataclass(frozen=True)
class CaptionTable:
    """All captions of a set.

    Attributes:
        rows: in the order of the pictures.
        concept_tags: what many captions share, and whether it is the concept's own.
        removed: whether the concept's own tags were taken out.
        warnings: what the user should know, in words.
    """

    rows: tuple[CaptionRow, ...]
    concept_tags: tuple[ConceptTag, ...] = ()
    removed: bool = False
    warnings: tuple[str, ...] = ()
    _by_file: Mapping[str, CaptionRow] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_file", {row.file: row for row in self.rows})

    def of(self, file: str) -> CaptionRow:
        """The row of a picture."""
        return self._by_file[file]

    def summary(self) -> dict[str, Any]:
        """Figures and the concept's tags, fit for JSON."""
        return {
            "distinct_captions": len({row.after for row in self.rows if row.source}),
            "most_tokens": max((row.tokens for row in self.rows if row.tokens), default=None),
            "concept_tags": [vars(tag) for tag in self.concept_tags],
            "concept_tags_removed": self.removed,
        }

    def records(self, review: Review) -> list[dict[str, Any]]:
        """The rows for a CSV file, which is a review file, too, in the order of names.

        `decision` and `caption` are for a person to fill in: copy the file, write into the
        copy, and name it as the concept's `review`. What a person wrote before is there again,
        of pictures without a caption as well, since they were dropped or are gone: a new copy
        can take the old one's place.
        """
        others = [CaptionRow(file, "", "", "") for file in review.unknown(self._by_file)]
        return [
            {
                "file": row.file,
                "decision": review.of(row.file).decision,
                "caption": review.of(row.file).caption,
                "source": row.source,
                "before": row.before,
                "after": row.after,
                "removed": join_tags(row.removed),
                "tokens": row.tokens,
            }
            for row in sorted((*self.rows, *others), key=lambda row: row.file)
        ]
