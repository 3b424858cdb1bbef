"""The concept's own tags: what all pictures of a set share belongs to its trigger.

A tag that stands in every caption takes a part of what the pictures share away from the trigger,
and a prompt with the trigger alone then misses it. So tags are looked for that nearly all
captions have and that pictures of something else have less often. Where a judge of pictures and
texts is at hand it fills the gaps that captions leave: it says in which pictures a tag can be
seen. How much it takes to see one is set by the other pictures, of which a known share passes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from blockwise_lora.imagesets.captioning.tags import key

CANDIDATE = 0.5
"""Share of the captions below which a tag is what makes pictures differ, whatever a judge says."""
FALSE_ALARMS = 0.05
"""Share of the other pictures in which the judge takes itself to see a tag, whatever the tag."""
FEWEST = 3
"""Pictures below which sharing a tag means nothing."""

Tags = tuple[str, ...]


@dataclass(frozen=True)
class ConceptTagRules:
    """The parameter group `concept_tags`.

    Attributes:
        remove: whether the tags are taken out of the captions; they are listed in any case.
        shared: least share of the set's pictures that have a tag, above 0.5 to 1.
        chance: a tag is the set's own only if so large a difference from the other pictures'
            share comes by chance this rarely (Fisher's exact test, one-sided), above 0 to 1.
        keep: tags that stay in any case, to be named in prompts.
        judge: folder or public name of a CLIP judge that looks for the tags, too; null: captions
            alone count.

    Raises:
        ValueError: a value is out of its range.
    """

    remove: bool = False
    shared: float = 0.9
    chance: float = 0.05
    keep: tuple[str, ...] = ()
    judge: str | None = None

    def __post_init__(self) -> None:
        mistakes = []
        if not CANDIDATE < self.shared <= 1:
            mistakes.append(f"shared is above {CANDIDATE} and at most 1, not {self.shared}")
        if not 0 < self.chance <= 1:
            mistakes.append(f"chance is above 0 and at most 1, not {self.chance}")
        if mistakes:
            raise ValueError("\n".join(mistakes))


@dataclass(frozen=True)
class ConceptTag:
    """A tag that many of the set's captions have, and what speaks for its being the concept's.

    Attributes:
        tag: in its most frequent spelling.
        prevalence: share of the set's captions that have it.
        background: share of the other pictures' captions; None where there are none.
        covered: share of the set's pictures that have it in the caption or show it to the judge;
            None without a judge.
        own: whether it belongs to the trigger.
        why: in words.
    """

    tag: str
    prevalence: float
    background: float | None
    covered: float | None
    own: bool
    why: str


def concept_tags(
    captions: Sequence[Tags],
    background: Sequence[Tags],
    rules: ConceptTagRules,
    covered: Mapping[str, float] | None = None,
) -> tuple[ConceptTag, ...]:
    """Every tag that at least half of the captions have, the most frequent first.

    Args:
        captions: tags of each picture of the set, cleaned up, without the trigger.
        background: tags of pictures of something else, made in the same way; may be empty.
        rules: from when on a tag is the concept's own.
        covered: the share of the set's pictures that have a tag in the caption or show it to a
            judge, by the tag's `key`.
    """
    spelling: dict[str, Counter[str]] = {}
    for tag in (tag for tags in captions for tag in tags):
        spelling.setdefault(key(tag), Counter())[tag] += 1
    have, others = (_counts(of) for of in (captions, background))
    sizes = len(captions), len(background)
    found = [
        _judged(spelling[tag].most_common(1)[0][0], (count, others[tag]), sizes, rules, covered)
        for tag, count in have.items()
        if count >= CANDIDATE * len(captions)
    ]
    return tuple(sorted(found, key=lambda tag: (-tag.prevalence, tag.tag)))


def remove(tags: Tags, own: Sequence[ConceptTag]) -> Tags:
    """The tags without those that belong to the trigger."""
    gone = {key(tag.tag) for tag in own if tag.own}
    return tuple(tag for tag in tags if key(tag) not in gone)


def seen_in(pictures: np.ndarray, others: np.ndarray, tags: np.ndarray) -> np.ndarray:
    """In which pictures each tag can be seen.

    A tag can be seen in a picture that is nearer to it than all but `FALSE_ALARMS` of the other
    pictures are.

    Args:
        pictures: of the set, (n, d) unit vectors.
        others: pictures of something else, (m, d).
        tags: (t, d).

    Returns:
        (n, t) bool.
    """
    limits = np.quantile(others @ tags.T, 1 - FALSE_ALARMS, axis=0)
    return pictures @ tags.T > limits


def _counts(captions: Sequence[Tags]) -> Counter[str]:
    return Counter(name for tags in captions for name in {key(tag) for tag in tags})


def _judged(
    tag: str,
    counts: tuple[int, int],
    sizes: tuple[int, int],
    rules: ConceptTagRules,
    covered: Mapping[str, float] | None,
) -> ConceptTag:
    prevalence = counts[0] / sizes[0]
    background = counts[1] / sizes[1] if sizes[1] else None
    share = None if covered is None else covered.get(key(tag))
    own, why = True, f"in {counts[0]} of {sizes[0]} captions"
    if prevalence < rules.shared and share is not None and share >= rules.shared:
        why += f", with what the judge sees in {share:.0%} of the pictures"
    elif prevalence < rules.shared:
        own, why = False, f"{why}: not shared by all"
    if own and sizes[0] < FEWEST:
        own, why = False, f"{why}: fewer than {FEWEST} pictures"
    if own and background is not None and _chance(counts, sizes) > rules.chance:
        own, why = False, f"{why}, but in {counts[1]} of {sizes[1]} of something else, too"
    if own and key(tag) in {key(kept) for kept in rules.keep}:
        own, why = False, f"{why}; kept, as concept_tags.keep says"
    return ConceptTag(tag, prevalence, background, share, own, why)


def _chance(counts: tuple[int, int], sizes: tuple[int, int]) -> float:
    """Probability of at least so many in the set, if the tag were as frequent in both.

    The hypergeometric distribution's upper tail, in whole numbers: scipy takes half a second to
    import.
    """
    both, tagged, own = sum(sizes), sum(counts), sizes[0]
    ways = (comb(tagged, k) * comb(both - tagged, own - k) for k in range(counts[0], own + 1))
    return sum(ways) / comb(both, own)
