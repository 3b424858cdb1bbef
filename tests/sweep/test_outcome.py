from pathlib import Path

import pytest
from PIL import Image

from blockwise_lora.diffusion.samples import SampleRow, SampleSet
from blockwise_lora.judges.panel import JudgeConfig, Panel
from blockwise_lora.judges.protocol import BootstrapConfig
from blockwise_lora.judges.samples import Question, References
from blockwise_lora.sweep.outcome import Tried, assess, row_of
from blockwise_lora.sweep.studies import Pair

DATA = Path(__file__).parents[2] / "data"
WORDS = ("kissing", "weary", "crying", "pouting")
FULL, LIKE_CAT, LIKE_STYLE = Pair("all", "all"), Pair("all", "mid"), Pair("mid", "all")


def pictures(*parts: str) -> tuple[Image.Image, ...]:
    folder = DATA.joinpath("01_raw", *parts)
    return tuple(Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png")))


def as_samples(shown, variant: str) -> SampleSet:
    rows = tuple(SampleRow("both", i, WORDS[i], 0, variant) for i in range(len(WORDS)))
    return SampleSet(rows, tuple(shown[: len(WORDS)]))


@pytest.fixture(scope="module")
def outcome():
    """The full pair drew true pictures, one copied the cat, one copied the style's pictures.

    The base drew other cats than the character's: those of the set are told apart by name only.
    """
    cat, style = pictures("characters", "cat"), pictures("styles", "openmoji")
    truth = pictures("truth", "cat-openmoji")
    panel = Panel.load(
        JudgeConfig(
            clip=str(DATA / "06_models" / "judges" / "clip"),
            dino=str(DATA / "06_models" / "judges" / "dino"),
        )
    )
    tried = [
        Tried(FULL, "trained", as_samples(truth, "full")),
        Tried(LIKE_CAT, "trained", as_samples(cat, "cat")),
        Tried(LIKE_STYLE, "trained", as_samples(style, "style")),
        Tried(LIKE_CAT, "ablated", as_samples(cat[1:], "cat")),
    ]
    grey = [Image.new("RGB", (64, 64), (96 + i,) * 3) for i in range(len(WORDS))]
    questions = [Question(f"cat face, {word}", t) for word, t in zip(WORDS, truth, strict=True)]
    return assess(
        "test",
        tried,
        as_samples(grey, "base"),
        panel,
        questions,
        References(cat, style),
        BootstrapConfig(draws=200),
    )


def test_effects_have_the_sign_of_what_was_drawn(outcome):
    like_cat, like_style = (outcome.effects[row_of(p)] for p in (LIKE_CAT, LIKE_STYLE))
    assert like_cat["identity"].low > 0 and like_cat["style"].high < 0
    assert like_style["identity"].high < 0 < like_style["style"].low
    assert outcome.effects[row_of(FULL)]["style"].mean == 0


def test_trained_and_ablated_rows_are_kept_apart(outcome):
    assert outcome.trained == (FULL, LIKE_CAT, LIKE_STYLE)
    assert outcome.ablated == (LIKE_CAT,)
    assert outcome.scores[row_of(LIKE_CAT)] != outcome.scores[row_of(LIKE_CAT, "ablated")]
    (identity, *_) = outcome.agreements["style"]
    assert identity.score == "identity" and identity.n == 1


def test_the_best_pair_has_both_and_the_frontier_each(outcome):
    assert outcome.best == FULL
    assert {FULL, LIKE_CAT, LIKE_STYLE} >= set(outcome.frontier) >= {LIKE_CAT, LIKE_STYLE}


def test_without_the_full_pair_there_is_nothing_to_compare_with():
    with pytest.raises(ValueError, match="full"):
        assess("test", [], None, None, (), None, BootstrapConfig())
