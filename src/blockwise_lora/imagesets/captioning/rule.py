"""Where the trigger word goes."""

from dataclasses import dataclass

from blockwise_lora.imagesets.captioning.tags import join_tags, split_tags
from blockwise_lora.imagesets.captioning.templates import check_fields

FIELDS = ("trigger", "class_word", "caption")


@dataclass(frozen=True)
class CaptionRule:
    """How a picture's caption is made.

    Attributes:
        trigger: the rare word that comes to stand for the concept.
        class_word: what the concept is a kind of.
        template: where the trigger goes; may hold {trigger}, {class_word} and {caption}, the
            picture's own caption.

    Raises:
        ValueError: the template has another field, or a word is empty.
    """

    trigger: str
    class_word: str
    template: str = "{trigger} {caption}"

    def __post_init__(self) -> None:
        mistakes = [
            f"{name} is empty; write a word"
            for name in ("trigger", "class_word")
            if not getattr(self, name).strip()
        ]
        mistakes += check_fields(self.template, FIELDS, "caption_template")
        if mistakes:
            raise ValueError("\n".join(mistakes))

    def has_trigger(self, caption: str) -> bool:
        """Whether the trigger is one of the caption's words."""
        return self.trigger in caption.replace(",", " ").split()

    def compose(self, caption: str) -> str:
        """The caption that is trained on.

        Args:
            caption: the picture's own; empty where it has none, which gives trigger and class
                word. One that has the trigger already stays as it is.
        """
        if not caption:
            return f"{self.trigger} {self.class_word}"
        if self.has_trigger(caption):
            return caption
        return " ".join(self._filled(caption).split())

    def compose_without(self, caption: str) -> str:
        """The caption where the trigger took over the tags that all pictures share.

        The trigger is a tag of its own then, since the word that it stood before may be gone:
        `{trigger} {caption}` becomes "zkc, grinning", not "zkc grinning".

        Args:
            caption: what is left of the picture's own; empty leaves the trigger alone.
        """
        if self.has_trigger(caption):
            return caption
        return join_tags(split_tags(self._filled(f", {caption}")))

    def _filled(self, caption: str) -> str:
        words = {"trigger": self.trigger, "class_word": self.class_word, "caption": caption}
        return self.template.format(**words)
