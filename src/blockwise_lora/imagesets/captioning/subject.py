"""What a source of captions sees of a picture, and what a source is."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

T = TypeVar("T")

AT_ONCE = 32
"""Pictures that are in memory at a time."""


@dataclass(frozen=True)
class Subject:
    """A picture that wants a caption.

    Attributes:
        file: its name in the folder of originals, relative, with forward slashes.
        open: returns the picture, RGB.
        texts: what was found beside it, by source: `sidecar`, `metadata`.
    """

    file: str
    open: Callable[[], Image.Image]
    texts: Mapping[str, str] = field(default_factory=dict)


class CaptionSource(Protocol):
    """Something that knows captions.

    Attributes:
        name: as the user's list of sources and the caption table have it.
    """

    name: str

    def captions(self, subjects: Sequence[Subject]) -> Sequence[str | None]:
        """One caption a picture; None where the source has none.

        An empty caption is an answer, too: the trigger says it all.
        """


class Encoder(Protocol):
    """A model that puts pictures and texts into one space, such as the CLIP judge.

    Attributes:
        scale: what cosines are multiplied by before a softmax, as the model was trained.
    """

    scale: float

    def images(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors of n pictures, (n, d)."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of n texts, (n, d)."""


def batched(items: Sequence[T], size: int = AT_ONCE) -> Iterator[Sequence[T]]:
    """The items in runs of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
