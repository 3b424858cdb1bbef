import numpy as np
import pytest
from scipy.stats import fisher_exact

from blockwise_lora.imagesets.captioning import ConceptTagRules, concept_tags
from blockwise_lora.imagesets.captioning.concept import remove, seen_in

RULES = ConceptTagRules(remove=True)
CATS = [
    ("cat face", "grinning", "yellow"),
    ("cat face", "weary", "yellow"),
    ("Cat_Face", "kissing", "yellow"),
    ("cat face", "crying", "simple background"),
]
OTHERS = [("car", "red"), ("dog", "yellow"), ("moon",), ("house",), ("key",), ("fish",)]


def by_name(found):
    return {tag.tag: tag for tag in found}


def test_what_all_share_and_others_lack_is_the_concepts():
    found = by_name(concept_tags(CATS, OTHERS, RULES))
    assert set(found) == {"cat face", "yellow"}  # half of the captions or more
    cat, yellow = found["cat face"], found["yellow"]
    assert (cat.prevalence, cat.background, cat.own) == (1.0, 0.0, True)
    assert (yellow.prevalence, yellow.background, yellow.own) == (0.75, 1 / 6, False)
    assert cat.why == "in 4 of 4 captions"
    assert yellow.why == "in 3 of 4 captions: not shared by all"
    assert cat.covered is None


def test_removal_takes_every_spelling():
    own = concept_tags(CATS, OTHERS, RULES)
    assert remove(CATS[2], own) == ("kissing", "yellow")
    assert remove((), own) == ()


def test_what_pictures_have_anyway_is_not_the_concepts():
    others = [("emoji", name) for name in "abcdef"]
    cats = [("emoji", "cat"), ("emoji", "cat"), ("emoji", "cat"), ("emoji", "cat")]
    found = by_name(concept_tags(cats, others, RULES))
    assert found["cat"].own
    assert not found["emoji"].own
    assert found["emoji"].why == "in 4 of 4 captions, but in 6 of 6 of something else, too"


@pytest.mark.parametrize(
    ("ours", "theirs"), [((5, 5), (2, 8)), ((4, 4), (3, 4)), ((9, 10), (1, 9))]
)
def test_the_line_is_where_fishers_test_says(ours, theirs):
    table = [[ours[0], ours[1] - ours[0]], [theirs[0], theirs[1] - theirs[0]]]
    p = fisher_exact(table, alternative="greater").pvalue
    captions = [("x",)] * ours[0] + [("y",)] * (ours[1] - ours[0])
    others = [("x",)] * theirs[0] + [("z",)] * (theirs[1] - theirs[0])
    for chance, own in ((p * 1.001, True), (p * 0.999, False)):
        found = by_name(concept_tags(captions, others, ConceptTagRules(chance=chance)))
        assert found["x"].own is own


def test_without_other_pictures_the_captions_decide():
    found = by_name(concept_tags(CATS, [], RULES))
    assert found["cat face"].own
    assert found["cat face"].background is None


def test_the_judge_fills_gaps_but_makes_nothing_up():
    covered = {"cat face": 1.0, "yellow": 0.95, "grinning": 1.0}
    found = by_name(concept_tags(CATS, OTHERS, RULES, covered))
    # Three of four captions and one of six others: p = 0.12. Twice as many pictures: p = 0.01.
    assert not found["yellow"].own
    found = by_name(concept_tags(CATS * 2, OTHERS * 2, RULES, covered))
    assert found["yellow"].own
    assert found["yellow"].why == (
        "in 6 of 8 captions, with what the judge sees in 95% of the pictures"
    )
    assert "grinning" not in found  # one caption in four: it is what makes pictures differ


def test_two_pictures_share_everything_and_prove_nothing():
    found = concept_tags([("cat", "grinning")] * 2, OTHERS, RULES)
    assert not any(tag.own for tag in found)
    assert "fewer than 3 pictures" in found[0].why


def test_kept_tags_stay():
    rules = ConceptTagRules(remove=True, keep=("Cat_face",))
    found = by_name(concept_tags(CATS, OTHERS, rules))
    assert not found["cat face"].own
    assert "concept_tags.keep" in found["cat face"].why


def test_a_tag_that_is_there_twice_counts_once():
    found = by_name(concept_tags([("a", "a"), ("b",), ("b",)], [], RULES))
    assert set(found) == {"b"}


def test_seen_is_measured_against_the_other_pictures():
    tags = np.eye(3, dtype=np.float32)
    others = np.array([[i / 100, 0.5, 0.0] for i in range(100)], dtype=np.float32)
    pictures = np.array([[0.96, 0.5, 0.1], [0.93, 0.5, 0.2]], dtype=np.float32)
    # 95 of 100 others are below 0.9405; all others are 0.5; all others are 0.
    assert seen_in(pictures, others, tags).tolist() == [
        [True, False, True],
        [False, False, True],
    ]


def test_mistakes_are_refused_together():
    with pytest.raises(ValueError, match=r"shared is above 0.5.*\nchance is above 0"):
        ConceptTagRules(shared=0.5, chance=0.0)
