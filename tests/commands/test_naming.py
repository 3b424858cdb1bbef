import pytest

from blockwise_lora.commands.naming import for_each, names_of
from blockwise_lora.errors import UserError


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("cat.safetensors", "cat"),
        ("loras/comic v1.5", "comic v1.5"),
        ("runs/cat/pytorch_lora_weights.safetensors", "cat"),
        ("runs/cat/adapter.safetensors", "cat"),
        ("runs/cat/adapter_config.json", "cat"),
        ("a=b,c.safetensors", "a_b_c"),
    ],
)
def test_names_come_from_files_and_folders(path, name):
    assert names_of([path]) == (name,)


def test_names_alike_are_numbered():
    paths = ["one/cat", "two/cat", "three/cat", "cat-2"]
    assert names_of(paths) == ("cat", "cat-2", "cat-3", "cat-2-2")


def test_given_names():
    assert names_of(["a", "b"], "cat, comic") == ("cat", "comic")
    for given in ("cat,cat", "cat,", "cat,a=b"):
        with pytest.raises(UserError, match="a name of its own"):
            names_of(["a", "b"], given)


def test_a_value_for_each():
    names = ("cat", "comic")
    assert for_each(["1", "2"], names, "--x") == ["1", "2"]
    assert for_each(["comic=a=b", "cat=2"], names, "--x") == ["2", "a=b"]
    assert for_each(["comic=2"], names, "--x", default="1") == ["1", "2"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["1"], "--x: 1 for 2 adapters"),
        (["1", "cat=2"], "all NAME=VALUE"),
        (["cat=1", "cat=2"], "all NAME=VALUE, once each"),
        (["cat=1"], "nothing for comic"),
        (["dog=1"], "no adapter is named 'dog'"),
    ],
)
def test_what_cannot_be_given(values, message):
    with pytest.raises(UserError, match=message):
        for_each(values, ("cat", "comic"), "--x")
