import pytest

from blockwise_lora.emoji.corpus import Emoji
from blockwise_lora.emoji.sources import SETS
from blockwise_lora.emoji.splits import load_splits, without_skin_tone

CAT, SMILEY = "1F63A", "1F600"


def emoji(code, set_name="noto"):
    return Emoji(code, set_name, "label", (), 0, 0)


@pytest.fixture(scope="module")
def splits():
    return load_splits()


def test_at_least_six_families_and_three_of_them_sealed(splits):
    roles = [family.role for family in splits.families.values()]
    assert len(roles) >= 6
    assert roles.count("sealed") >= 3
    assert splits.families["cat"].role == "dev"


def test_no_member_is_train_and_test_or_in_two_families(splits):
    codes = [c for f in splits.families.values() for c in (*f.train, *f.test, *f.lookalikes)]
    assert len(codes) == len(set(codes))


def test_codes_are_normalised_or_they_would_match_no_drawing(splits):
    codes = [c for f in splits.families.values() for c in (*f.train, *f.test, *f.lookalikes)]
    codes += [*splits.style_set, *splits.retrieval_set]
    for code in codes:
        assert code == code.upper()
        assert "FE0F" not in code
        int(code.split("-")[0], 16)  # YAML must not have read 26E5 or 2615 as a number


def test_vendors_are_apart(splits):
    assert set(splits.train_vendors) | set(splits.styles) == set(SETS)
    assert not set(splits.train_vendors) & set(splits.styles)
    fluent = {role for name, role in splits.styles.items() if name.startswith("fluent")}
    assert fluent == {"sealed"}, "sets of one vendor share drawings"


@pytest.mark.parametrize(
    ("code", "set_name", "learns"),
    [
        (SMILEY, "noto", True),
        (SMILEY, "openmoji", False),  # unseen vendor
        (CAT, "noto", False),  # unseen identity
        ("1F981", "twemoji", False),  # the lion, a look-alike of the cat
        ("1F44B-1F3FD", "noto", False),  # a hand of the held-out family, with a skin tone
        ("1F469-1F3FB-200D-1F680", "noto", False),
        ("1F468-1F3FB-200D-1F680", "noto", True),  # the man in the same role
    ],
)
def test_who_may_be_learned_from(splits, code, set_name, learns):
    assert splits.trains(emoji(code, set_name)) is learns


def test_style_and_retrieval_sets_hold_nothing_held_out(splits):
    assert not any(splits.held_out(code) for code in splits.style_set)
    assert not any(splits.held_out(code) for code in splits.retrieval_set)
    assert len(set(splits.retrieval_set)) == 100


def test_a_pair_is_sealed_when_either_half_is(splits):
    assert splits.role("cat", "openmoji") == "dev"
    assert splits.role("cat", "fluent-emoji") == "sealed"
    assert splits.role("monkey", "openmoji") == "sealed"


def test_skin_tone_is_taken_out_of_the_middle_of_a_sequence():
    assert without_skin_tone("1F469-1F3FB-200D-1F680") == "1F469-200D-1F680"
