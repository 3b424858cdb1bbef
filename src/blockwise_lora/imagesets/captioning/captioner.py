"""From pictures to captions: sources in their order, clean-up, the concept's tags, the trigger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from blockwise_lora.imagesets.captioning.concept import (
    ConceptTag,
    ConceptTagRules,
    Tags,
    concept_tags,
    remove,
    seen_in,
)
from blockwise_lora.imagesets.captioning.rule import CaptionRule
from blockwise_lora.imagesets.captioning.subject import (
    CaptionSource,
    Encoder,
    Subject,
    T,
    batched,
)
from blockwise_lora.imagesets.captioning.table import REVIEW, CaptionRow, CaptionTable
from blockwise_lora.imagesets.captioning.tags import join_tags, key
from blockwise_lora.imagesets.captioning.tidy import TagRules, tidy
from blockwise_lora.imagesets.captioning.tokens import TextLimit

COMPARED = 256
"""Pictures of something else, and of the set, that are looked at for the concept's tags."""


@dataclass(frozen=True)
class Captioner:
    """How a set's captions are made.

    Attributes:
        rule: where the trigger goes.
        sources: the first that has a caption for a picture gives it.
        tags: clean-up.
        concept: what is done about the tags that all pictures share.
        judge: returns a model that looks for those tags; None: captions alone count.
        limit: of the text encoder; None: nobody counts.
    """

    rule: CaptionRule
    sources: tuple[CaptionSource, ...]
    tags: TagRules = field(default_factory=TagRules)
    concept: ConceptTagRules = field(default_factory=ConceptTagRules)
    judge: Callable[[], Encoder] | None = None
    limit: TextLimit | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The sources, as the user named them."""
        return tuple(source.name for source in self.sources)

    def __call__(
        self,
        subjects: Sequence[Subject],
        *,
        review: Mapping[str, str] | None = None,
        background: Sequence[Subject] = (),
    ) -> CaptionTable:
        """Make the captions.

        Args:
            subjects: the set's pictures.
            review: captions that a person wrote, by file; they win, and nothing is done to them
                but that the trigger is put in where it is missing.
            background: pictures of something else, to tell the concept's tags from what
                pictures have anyway.
        """
        written = {file: text for file, text in (review or {}).items() if text}
        automatic = [subject for subject in subjects if subject.file not in written]
        found = self._found(automatic)
        tidied = self._tidied(found)
        own = self._concept(automatic, tidied, background)
        made = {row.file: row for row in self._composed(found, tidied, own)}
        rows = [made.get(s.file) or self._reviewed(s.file, written[s.file]) for s in subjects]
        rows, warnings = self._counted(rows)
        return CaptionTable(tuple(rows), own, self.concept.remove, tuple(warnings))

    def _found(self, subjects: Sequence[Subject]) -> list[CaptionRow]:
        """The first caption that a source has; a row without a source where none has one."""
        found: dict[str, CaptionRow] = {}
        for source in self.sources:
            wanted = [subject for subject in subjects if subject.file not in found]
            for batch in batched(wanted):
                for subject, text in zip(batch, source.captions(batch), strict=True):
                    if text is not None:
                        found[subject.file] = CaptionRow(subject.file, source.name, text, "")
        return [found.get(s.file) or CaptionRow(s.file, "", "", "") for s in subjects]

    def _tidied(self, rows: Sequence[CaptionRow]) -> list[Tags]:
        return tidy([row.before for row in rows], self.tags)

    def _concept(
        self, subjects: Sequence[Subject], tidied: Sequence[Tags], background: Sequence[Subject]
    ) -> tuple[ConceptTag, ...]:
        # A tag with the trigger in it is where the trigger stands, and stays.
        plain = [tuple(t for t in tags if not self.rule.has_trigger(t)) for tags in tidied]
        others = spread(background, COMPARED)
        other_tags = self._tidied(self._found(others))
        found = concept_tags(plain, other_tags, self.concept)
        if not (self.judge and others and found):
            return found
        names = [tag.tag for tag in found]
        some = spread(range(len(subjects)), COMPARED)
        seen = self._seen([subjects[i] for i in some], others, names)
        covered = {}
        for name, sight in zip(names, seen.T, strict=True):
            said = [key(name) in map(key, plain[i]) for i in some]
            covered[key(name)] = float(np.logical_or(said, sight).mean())
        return concept_tags(plain, other_tags, self.concept, covered)

    def _seen(
        self, subjects: Sequence[Subject], others: Sequence[Subject], tags: Sequence[str]
    ) -> np.ndarray:
        judge = self.judge()
        ours, theirs = (
            np.concatenate([judge.images([s.open() for s in few]) for few in batched(group)])
            for group in (subjects, others)
        )
        return seen_in(ours, theirs, judge.texts(tags))

    def _composed(
        self, rows: Sequence[CaptionRow], tidied: Sequence[Tags], own: Sequence[ConceptTag]
    ) -> list[CaptionRow]:
        gone = {key(tag.tag) for tag in own if tag.own} if self.concept.remove else set()
        bare = key(self.rule.class_word) in gone
        made = []
        for row, tags in zip(rows, tidied, strict=True):
            left = remove(tags, own) if gone else tags
            removed = tuple(tag for tag in tags if tag not in left)
            text = join_tags(left)
            if gone and (removed or bare):
                after = self.rule.compose_without(text)
            else:
                after = self.rule.compose(text)
            made.append(replace(row, after=after if row.source else "", removed=removed))
        return made

    def _reviewed(self, file: str, text: str) -> CaptionRow:
        return CaptionRow(file, REVIEW, text, self.rule.compose(text))

    def _counted(self, rows: Sequence[CaptionRow]) -> tuple[list[CaptionRow], list[str]]:
        if self.limit is None:
            return list(rows), []
        counts = self.limit.counts([row.after for row in rows])
        warning = self.limit.warning([row.file for row in rows], counts)
        counted = [replace(row, tokens=n) for row, n in zip(rows, counts, strict=True)]
        return counted, [warning] if warning else []


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many items, evenly out of all of them."""
    count = min(len(items), most)
    return [items[i * len(items) // count] for i in range(count)]
