"""Who may see what: held-out vendors and identity families, read from `splits.yml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from blockwise_lora.emoji.corpus import SKIN_TONES, Emoji


@dataclass(frozen=True)
class Family:
    """One identity drawn several times in every set.

    Attributes:
        name: how the project calls it, for example `cat`.
        role: `dev`, or `sealed` when only the final benchmark may look.
        class_word: the class noun that captions use beside the trigger word.
        train: code point -> expression, pictures that may teach a character adapter.
        test: code point -> expression, held out from the adapter as well.
        lookalikes: code points that would give the identity away; nobody learns from them.
    """

    name: str
    role: str
    class_word: str
    train: dict[str, str]
    test: dict[str, str]
    lookalikes: tuple[str, ...]

    @property
    def members(self) -> dict[str, str]:
        return {**self.train, **self.test}

    def holds(self, code: str) -> bool:
        """Whether a code point, in whatever skin tone, is of the family or looks like it."""
        plain = without_skin_tone(code)
        return plain in self.members or plain in self.lookalikes


@dataclass(frozen=True)
class Splits:
    """The whole split file; see its comments."""

    train_vendors: tuple[str, ...]
    styles: dict[str, str]
    families: dict[str, Family]
    style_set: tuple[str, ...]
    retrieval_set: tuple[str, ...]

    def held_out(self, code: str) -> bool:
        """Whether a code point belongs to any held-out family."""
        return any(family.holds(code) for family in self.families.values())

    def trains(self, emoji: Emoji) -> bool:
        """Whether base model and judges may learn from this drawing."""
        return emoji.set_name in self.train_vendors and not self.held_out(emoji.code)

    def role(self, family: str, style: str) -> str:
        """`dev` or `sealed`, for the pair of a character and a style."""
        both = {self.families[family].role, self.styles[style]}
        return "dev" if both == {"dev"} else "sealed"


def without_skin_tone(code: str) -> str:
    """A code point sequence without its skin-tone modifiers."""
    return "-".join(part for part in code.split("-") if part not in SKIN_TONES)


@cache
def load_splits() -> Splits:
    """Read the committed split file that ships inside the package."""
    text = files("blockwise_lora.emoji").joinpath("splits.yml").read_text(encoding="utf-8")
    raw = yaml.safe_load(text)
    families = {
        name: Family(
            name=name,
            role=entry["role"],
            class_word=entry["class_word"],
            train={str(k): v for k, v in entry["train"].items()},
            test={str(k): v for k, v in entry["test"].items()},
            lookalikes=tuple(str(code) for code in entry["lookalikes"]),
        )
        for name, entry in raw["families"].items()
    }
    return Splits(
        train_vendors=tuple(raw["train_vendors"]),
        styles=raw["styles"],
        families=families,
        style_set=tuple(str(code) for code in raw["style_set"]),
        retrieval_set=tuple(str(code) for code in raw["retrieval_set"]),
    )
