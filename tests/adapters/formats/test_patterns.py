import pytest
from peft.utils.other import get_pattern_key

from blockwise_lora.adapters.formats.patterns import Patterns

NAMES = [
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0",
    "down_blocks.10.resnets.1.conv1",
    "up_blocks.1.resnets.0.conv1",
    "up_blocks.1.resnets.0.conv_shortcut",
    "up_blocks.1.attentions.2.proj_in",
    "conv_in",
    "text_model.encoder.layers.11.self_attn.q_proj",
]
PATTERNS = [
    *("to_k", "k", "conv1", "conv_in", "proj.in", "to_out.0", "attn2.to_out.0", "", "."),
    *(NAMES[0], "^conv_in", "^conv1", "conv_in$", "conv_in^", r"^up_blocks\.1\.resnets\.0\.conv1"),
    *(r"up_blocks\.1.*conv1", ".*", ".*attn2.*", ".+blocks.*?conv_?[a-z]*", r"_blocks\.\d+\..*"),
    *(r"down_blocks\.\d+\..*\.(to_k|conv\d)", "(?:to_k|q_proj|)", "proj_in|^conv_(in|out)$"),
    *("((to_)k|(q|k)_proj)", r"layers\.[0-9]+\.self_attn\.[^.]*", r"[\w.]+1", r"resnets\.[01]\..+"),
    *(
        "conv1?",
        "conv12?",
        "conv+1",
        r"\D+",
        r"\S*\.\w+",
        "con*v*v_in*",
        "z*conv_in",
        "(conv|conv1)",
    ),
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_means_what_it_means_to_peft(pattern):
    for name in NAMES:
        theirs = {pattern: 1}.get(get_pattern_key([pattern], name), 0)
        assert Patterns({pattern: 1}).get(name, 0) == theirs, name


def test_the_first_of_several_counts():
    table = {"^no": 0, ".*k": 1, "to_k": 2}
    assert Patterns(table).get(NAMES[0], 3) == 1
    assert Patterns(dict(reversed(table.items()))).get(NAMES[0], 3) == 2
    assert Patterns(table).get("conv_in", 3) == 3


@pytest.mark.parametrize(
    "pattern",
    [
        "a*" * 50 + "b",
        "(a|a)" * 39 + "b",
        "(a|aa)" * 30 + "b",
        ".*" * 99 + "b",
        "a?" * 60 + "a" * 80,
    ],
)
def test_ways_without_number_take_no_time(pattern):
    """Python's own matching tries them all, which would outlast the universe."""
    assert Patterns({pattern: 1}).get("a" * 70, 0) == 0


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+b", "(a|b)*", "(a)?", "a{2,9}", "a**", "a*+"),  # repeated groups, counts
        *("(", ")", "a)b(", "[", "[]", "[z-a]", "*a", "\\"),  # damaged
        *(r"(a)\1", r"\ba", "(?=a)b", "(?!a)b", "(?i)a", "(?P<x>a)"),  # more than names need
        *("a" * 600, "a*" * 101),
    ],
)
def test_what_is_not_understood_is_refused(pattern):
    with pytest.raises(ValueError, match=r"more than is understood.*names of the layers"):
        Patterns({pattern: 1})


def test_more_than_any_adapter_has_is_refused():
    with pytest.raises(ValueError, match="more than 100 patterns"):
        Patterns({f"to_k{i}.*": 1 for i in range(101)})
    Patterns({f"to_k{i}": 1 for i in range(1000)})
    with pytest.raises(ValueError, match="a name of 501 characters"):
        Patterns({"a": 1}).get("a" * 501, 0)
