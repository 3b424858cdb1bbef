"""What lies beside a picture: its .txt or .caption, or its row of a metadata file."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from blockwise_lora.imagesets.captioning.subject import Subject


@dataclass(frozen=True)
class Beside:
    """Texts that the reading of the folder has found.

    Attributes:
        name: which of them.
    """

    name: Literal["sidecar", "metadata"]

    def captions(self, subjects: Sequence[Subject]) -> list[str | None]:
        return [subject.texts.get(self.name) or None for subject in subjects]
