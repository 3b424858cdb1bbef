from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blockwise_lora.imagesets.captioning import VariantRules, variants
from blockwise_lora.imagesets.captioning.tags import split_tags

CAPTION = "zkc cat face, grinning, yellow, animal"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_chance_the_caption_stays_letter_by_letter():
    odd = "a,b ,  c"
    before = generator().get_state()
    drawn = generator()
    assert variants(odd, 3, VariantRules(), drawn) == (odd,) * 3
    assert torch.equal(drawn.get_state(), before)


def test_the_seed_alone_decides():
    rules = VariantRules(shuffle=True, dropout=0.3)
    first = variants(CAPTION, 20, rules, generator(1))
    assert first == variants(CAPTION, 20, rules, generator(1))
    assert first != variants(CAPTION, 20, rules, generator(2))
    torch.manual_seed(123)  # the global generator has no say
    assert first == variants(CAPTION, 20, rules, generator(1))


def test_all_orders_come_equally_often_behind_the_trigger():
    drawn = Counter(variants(CAPTION, 6000, VariantRules(shuffle=True), generator()))
    assert len(drawn) == 6  # 3! orders of the free tags
    assert all(caption.startswith("zkc cat face, ") for caption in drawn)
    # 1000 expected each; a binomial's standard deviation is 29.
    assert all(abs(count - 1000) < 130 for count in drawn.values())


def test_dropout_leaves_out_its_share_and_keeps_the_order():
    drawn = variants(CAPTION, 4000, VariantRules(dropout=0.25), generator())
    left = Counter(tag for caption in drawn for tag in split_tags(caption))
    assert left["zkc cat face"] == 4000
    for tag in ("grinning", "yellow", "animal"):
        assert left[tag] / 4000 == pytest.approx(0.75, abs=0.03)
    places = {tag: i for i, tag in enumerate(split_tags(CAPTION))}
    for caption in drawn:
        order = [places[tag] for tag in split_tags(caption)]
        assert order == sorted(order)


@given(
    st.lists(st.sampled_from("abcdefg"), max_size=6),
    st.integers(0, 8),
    st.booleans(),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
def test_nothing_is_added_and_the_kept_stay_first(tags, keep, shuffle, dropout, seed):
    rules = VariantRules(shuffle, keep, dropout)
    for caption in variants(", ".join(tags), 3, rules, generator(seed)):
        drawn = split_tags(caption)
        assert list(drawn[:keep]) == tags[:keep]
        assert not Counter(drawn) - Counter(tags)


def test_a_sentence_has_one_wording():
    rules = VariantRules(shuffle=True, keep=1, dropout=0.9)
    sentence = "a cat that sits on a mat"
    assert set(variants(sentence, 9, rules, generator())) == {sentence}


def test_mistakes_are_refused_together():
    with pytest.raises(ValueError, match=r"keep is at least 0, not -1\ndropout is in \[0, 1\)"):
        VariantRules(keep=-1, dropout=1.0)
    with pytest.raises(ValueError, match="at least 1, not 0"):
        variants("a", 0, VariantRules(), generator())
