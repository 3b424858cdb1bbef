"""Captions by rule: the same words for all, or words out of a picture's place."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from blockwise_lora.imagesets.captioning.sources.file_name import words
from blockwise_lora.imagesets.captioning.subject import Subject
from blockwise_lora.imagesets.captioning.tags import join_tags, split_tags
from blockwise_lora.imagesets.captioning.templates import check_fields

FIELDS = ("class_word", "folder", "file_name")


@dataclass(frozen=True)
class Template:
    """A caption for every picture.

    Attributes:
        text: may hold {class_word}, {folder} (the sub-folder that the picture lies in) and
            {file_name} (the words of its name). Empty: trigger and class word alone.
        class_word: what the concept is a kind of.
        name: of the source.

    Raises:
        ValueError: the text has another field.
    """

    text: str = ""
    class_word: str = ""
    name: str = "template"

    def __post_init__(self) -> None:
        if mistakes := check_fields(self.text, FIELDS, "template"):
            raise ValueError("\n".join(mistakes))

    def captions(self, subjects: Sequence[Subject]) -> list[str | None]:
        return [self._caption(subject.file) for subject in subjects]

    def _caption(self, file: str) -> str:
        folder = PurePosixPath(file).parent.name
        filled = self.text.format(
            class_word=self.class_word,
            # words() takes a file's name: a folder's may hold a dot of its own.
            folder=words(f"{folder}.x") if folder else "",
            file_name=words(file),
        )
        return join_tags(split_tags(filled))
