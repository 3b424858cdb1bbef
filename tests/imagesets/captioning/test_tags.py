import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockwise_lora.imagesets.captioning.tags import join_tags, key, split_tags


@pytest.mark.parametrize(
    ("caption", "tags"),
    [
        ("cat face, grinning", ("cat face", "grinning")),
        (" a ,, b\n c ,", ("a", "b c")),
        ("a cat that sits on a mat", ("a cat that sits on a mat",)),
        ("", ()),
        (" , ", ()),
    ],
)
def test_split(caption, tags):
    assert split_tags(caption) == tags


def test_spellings_of_one_tag():
    assert key("Blue_Eyes") == key("blue  eyes") == key(" BLUE eyes")
    assert key("blue eye") != key("blue eyes")


@given(st.text())
def test_splitting_what_was_joined_changes_nothing(caption):
    tags = split_tags(caption)
    assert split_tags(join_tags(tags)) == tags
