import pytest

from blockwise_lora.imagesets.captioning import TagRules, tidy


def test_synonyms_doubles_and_unwanted():
    rules = TagRules(
        synonyms={"kitty": "cat", "Blue_Eyes": "eyes, blue"},
        blacklist=("*background*", "lowres"),
    )
    captions = ["Kitty, cat, sitting, simple background", "lowres, blue eyes", "a, A, a_"]
    assert tidy(captions, rules) == [("cat", "sitting"), ("eyes", "blue"), ("a",)]


def test_an_empty_synonym_leaves_the_tag_out():
    assert tidy(["a, b"], TagRules(synonyms={"a": ""})) == [("b",)]


def test_order():
    captions = ["c, a, b", "b, d", "c, b"]
    assert tidy(captions, TagRules(order="alphabet"))[0] == ("a", "b", "c")
    assert tidy(captions, TagRules(order="frequent"))[0] == ("b", "c", "a")
    assert tidy(captions, TagRules(first=("b", "a")))[0] == ("b", "a", "c")
    assert tidy(captions, TagRules(first=("d",), order="alphabet"))[1] == ("d", "b")


def test_without_rules_only_doubles_go():
    assert tidy(["b, a, b", "", "a sentence"], TagRules()) == [("b", "a"), (), ("a sentence",)]


def test_brackets_in_a_blacklist_stand_for_themselves():
    assert tidy(["smile [big], b"], TagRules(blacklist=("smile [big]",))) == [("b",)]


def test_chained_synonyms_are_refused():
    with pytest.raises(ValueError, match="'a' becomes 'b', which becomes something else"):
        TagRules(synonyms={"a": "b", "b": "c"})
    assert tidy(["A"], TagRules(synonyms={"A": "a"})) == [("a",)]  # another spelling is fine
