import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from blockwise_lora.blocks.mask import Mask, MaskError, Term
from blockwise_lora.blocks.presets import PRESETS
from blockwise_lora.blocks.structure import BlockMap, SubBlock
from blockwise_lora.errors import UserError


def block_map(levels: int, base: bool = False) -> BlockMap:
    """SD's layout of this many levels, without a model."""
    coarse = [f"in{i}" for i in range(levels) for _ in range(3 if i < levels - 1 else 2)]
    names = [f"IN{i + 1:02d}" for i in range(len(coarse))]
    coarse += ["mid"] + [f"out{i // 3}" for i in range(3 * levels)]
    names += ["MID"] + [f"OUT{i:02d}" for i in range(3 * levels)]
    pairs = list(zip(names, coarse, strict=True))
    pairs = [("BASE", "base"), *pairs] if base else pairs
    return BlockMap(tuple(SubBlock(name, c, (), ()) for name, c in pairs), ("conv_in",))


SD = block_map(4)
XL = block_map(3)


def coarse_ranks(text: str, default: int = 8, blocks: BlockMap = SD) -> dict[str, int]:
    """Rank by coarse block, for masks that treat all of a block alike; skipped ones left out."""
    ranks = Mask.parse(text).ranks(blocks, default)
    assert list(ranks) == list(blocks.names)
    found = {}
    for name, members in blocks.coarse.items():
        (rank,) = {ranks[m] for m in members}
        if rank:
            found[name] = rank
    return found


EVERY = dict.fromkeys(SD.coarse, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", EVERY),
        ("out1-out3", {"out1": 8, "out2": 8, "out3": 8}),
        ("all+in0:0+mid:0", {k: v for k, v in EVERY.items() if k not in ("in0", "mid")}),
        ("in2-mid+out1:16", {"in2": 8, "in3": 8, "mid": 8, "out1": 16}),
        ("in", {"in0": 8, "in1": 8, "in2": 8, "in3": 8}),
        ("out:4", {"out0": 4, "out1": 4, "out2": 4, "out3": 4}),
        ("mid", {"mid": 8}),
        ("in3-out0", {"in3": 8, "mid": 8, "out0": 8}),
        ("IN10-OUT02", {"in3": 8, "mid": 8, "out0": 8}),
        ("out1:0+out1", {"out1": 8}),
        ("all+out1:0+out1:2", EVERY | {"out1": 2}),
        ("in0:0+all", EVERY),
        ("m00:3", {"mid": 3}),
        ("in1-in1", {"in1": 8}),
    ],
)
def test_terms_apply_from_left_to_right(text, expected):
    assert coarse_ranks(text) == expected


def test_one_digit_is_coarse_and_two_are_a_sub_block():
    assert Mask.parse("in1").selected(SD) == ("IN04", "IN05", "IN06")
    assert Mask.parse("in01").selected(SD) == ("IN01",)
    assert Mask.parse("out00").selected(SD) == ("OUT00",)
    assert Mask.parse("in1-IN08").selected(SD) == ("IN04", "IN05", "IN06", "IN07", "IN08")
    assert Mask.parse("OUT10-out3").selected(SD) == ("OUT10", "OUT11")
    assert Mask.parse("OUT03:4+OUT03-OUT04").ranks(SD, 2)["OUT03"] == 2


def test_case_does_not_matter_and_printing_is_canonical():
    assert (
        str(Mask.parse("ALL+In0:00+Out03:016+MID+M00+Style")) == "all+in0:0+OUT03:16+mid+mid+style"
    )
    assert Mask.parse("OUT1-Out3") == Mask.parse("out1-out3")
    assert str(Mask.parse("  all ")) == "all"


names = st.sampled_from([*SD.coarse, *(name for name in SD.names if name != "MID")])
presets = [name for name, preset in PRESETS.items() if 4 in preset.masks]
starts = st.sampled_from(["all", "in", "out", *presets, *SD.coarse])
ranks = st.none() | st.integers(0, 99999)


def blocks_of(term: Term) -> tuple[str, ...]:
    return Mask((term,)).selected(SD)


@st.composite
def terms(draw) -> Term:
    if draw(st.booleans()):
        return Term(draw(starts), None, draw(ranks))
    first, last = sorted(
        (draw(names), draw(names)), key=lambda name: SD.names.index(blocks_of(Term(name))[0])
    )
    return Term(first, last, draw(ranks))


@given(st.lists(terms(), min_size=1, max_size=6))
def test_printing_and_parsing_round_trip(drawn):
    mask = Mask(tuple(drawn))
    text = str(mask)
    assert Mask.parse(text) == mask
    assert Mask.parse(text.upper()) == mask == Mask.parse(text.lower())
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzINOUT0123456789:+-")
    # What YAML makes of it unquoted, as a parameter file and `kedro run --params` have it.
    assert yaml.safe_load(f"blocks: {text}") == {"blocks": text}


@given(st.lists(terms(), min_size=1, max_size=6), st.integers(1, 64))
def test_ranks_are_those_of_the_last_term_that_names_the_block(drawn, default):
    mask = Mask(tuple(drawn))
    expected = {}
    for name in SD.names:
        naming = [term for term in drawn if name in blocks_of(Term(term.first, term.last))]
        rank = 0 if not naming else naming[-1].rank
        expected[name] = default if rank is None else rank
    if any(expected.values()):
        assert mask.ranks(SD, default) == expected
    else:
        with pytest.raises(MaskError, match="trains nothing"):
            mask.ranks(SD, default)


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("al", 1, "did you mean 'all'"),
        ("all+ot1:0", 5, "unknown block 'ot1'; did you mean 'out1'"),
        ("all+style+charakter", 11, "did you mean 'character'"),
        ("xyzzy", 1, "presets character, style"),
        ("all+", 5, "a term is missing"),
        ("+all", 1, "a term is missing"),
        ("all++mid", 5, "a term is missing"),
        ("all+in0:0,mid:0", 5, "',' is not allowed"),
        ("all + mid", 1, "' ' is not allowed"),
        ("!all", 1, "'!' is not allowed"),
        ("all+in0:x", 5, "not one whole number"),
        ("all+in0:-1", 5, "not one whole number"),
        ("in0:1:2", 1, "not one whole number"),
        ("in0:", 1, "not one whole number"),
        ("in0-", 1, "is not a term"),
        ("in0-in1-in2", 1, "is not a term"),
        ("mid+out3-out1", 5, "runs backwards: write out1-out3"),
        ("out0-in3", 1, "runs backwards: write in3-out0"),
        ("OUT04-OUT03", 1, "runs backwards"),
        ("in-mid", 1, "'in' cannot end a range"),
        ("in0-style", 1, "'style' cannot end a range"),
        ("IN00", 1, "IN00 is conv_in"),
        ("base-in0", 1, "'base' cannot end a range"),
        ("in0-D03", 1, "in0 and D03 are of different kinds of model"),
        ("S03-D01", 1, "runs backwards: write D01-S03"),
        ("single-double", 1, "runs backwards: write double-single"),
        ("d3", 1, "did you mean D03"),
        ("all+not", 5, "NOT begins a mask"),
        ("NOT in0 mod", 9, "unknown block 'mod'"),
        ("NOT", 4, "a term is missing"),
        ("all+16", 5, r"16 is no block; a rank follows a block and a colon \(all:16\)"),
    ],
)
def test_mistakes_are_named_with_their_position(text, position, message):
    with pytest.raises(MaskError, match=rf"position {position}: .*{message}"):
        Mask.parse(text)


@pytest.mark.parametrize("numbers", [[1, 1, 0], (0, 1)])
def test_lists_that_are_no_text_are_refused_with_the_remedy(numbers):
    with pytest.raises(MaskError, match=r"is a list: put it in quotes \('\d,\d"):
        Mask.parse(numbers)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("NOT IN09-OUT02", "all+IN09-OUT02:0"),
        ("not in3", "all+in3:0"),
        ("NOT IN03 IN06  out1", "all+IN03:0+IN06:0+out1:0"),
        ("NOT style+mid", "all+style:0+mid:0"),
        ("NOT base", "all+base:0"),
    ],
)
def test_not_skips_what_follows(text, printed):
    assert str(Mask.parse(text)) == printed
    assert Mask.parse(text) == Mask.parse(printed)


def test_not_is_the_rest_of_the_model():
    skipped = set(Mask.parse("IN09-OUT02").selected(SD))
    assert set(Mask.parse("NOT IN09-OUT02").selected(SD)) == set(SD.names) - skipped


def test_what_not_skips_has_no_rank():
    with pytest.raises(MaskError, match="what NOT skips has no rank; write out1 alone"):
        Mask.parse("NOT in0+out1:4")


def test_base_is_named_and_never_part_of_all():
    blocks = block_map(4, base=True)
    assert Mask.parse("all").ranks(blocks, 8)["BASE"] == 0
    assert Mask.parse("all+BASE:4").ranks(blocks, 8)["BASE"] == 4
    assert Mask.parse("base").selected(blocks) == ("BASE",)
    assert "BASE" not in Mask.parse("in0-out3").selected(blocks)
    with pytest.raises(MaskError, match="no text encoder is adapted here: leave it out"):
        Mask.parse("all+base").ranks(SD, 8)


@pytest.mark.parametrize(
    ("ranks", "sentence"),
    [
        ({"IN01": 8, "IN02": 8, "IN03": 8}, "in0"),
        ({"IN01": 8, "IN02": 8}, "IN01-IN02"),
        ({"IN02": 8}, "IN02"),
        ({"IN03": 8, "IN04": 8, "IN05": 8, "IN06": 8, "IN07": 8}, "IN03-IN07"),
        (dict.fromkeys(SD.names, 8), "all"),
        (dict.fromkeys(SD.names, 4), "all:4"),
        (dict.fromkeys(SD.names[8:16], 8), "IN09-OUT03"),
        (dict.fromkeys(SD.names[3:15], 16) | {"OUT11": 8}, "in1-out0:16+OUT11"),
    ],
)
def test_the_shortest_sentence_for_ranks(ranks, sentence):
    assert str(Mask.of(ranks, SD, 8)) == sentence


def test_no_sentence_for_nothing_and_for_strange_blocks():
    with pytest.raises(MaskError, match="nothing would be trained"):
        Mask.of({"IN01": 0}, SD, 8)
    with pytest.raises(MaskError, match="no block OUT12"):
        Mask.of({"OUT12": 8}, SD, 8)


@given(st.lists(st.integers(0, 3), min_size=25, max_size=25), st.integers(1, 3))
def test_ranks_and_sentences_round_trip(drawn, default):
    blocks = block_map(4, base=True)
    assert len(blocks.names) == 25
    ranks = dict(zip(blocks.names, drawn, strict=True))
    if any(drawn):
        mask = Mask.of(ranks, blocks, default)
        assert mask.ranks(blocks, default) == ranks
        assert Mask.parse(str(mask)) == mask


@pytest.mark.parametrize("rank", ["16", 16])
def test_a_bare_rank_is_refused_with_what_is_meant(rank):
    with pytest.raises(MaskError, match=r"rank is a parameter of its own.*all:16"):
        Mask.parse(rank)


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_an_empty_mask_is_refused(nothing):
    with pytest.raises(MaskError, match="mask is empty"):
        Mask.parse(nothing)


@pytest.mark.parametrize("value", [1.5, True, {"all": 1}])
def test_other_values_are_refused(value):
    with pytest.raises(MaskError, match="is not text"):
        Mask.parse(value)


def test_blocks_that_the_model_lacks():
    with pytest.raises(MaskError, match=r"mask 'in3': .*no block in3.*in0, in1, in2, mid"):
        Mask.parse("in3").ranks(XL, 8)
    with pytest.raises(MaskError, match="did you mean the sub-block IN05"):
        Mask.parse("in5").ranks(SD, 8)
    with pytest.raises(MaskError, match=r"no block OUT12.*IN01 to OUT11"):
        Mask.parse("all+OUT12:0").ranks(SD, 8)
    with pytest.raises(MaskError, match="no block out9"):
        Mask.parse("out1-out9").ranks(SD, 8)


def test_a_range_of_two_grains_that_runs_backwards_in_this_model():
    with pytest.raises(MaskError, match="runs backwards: write IN02-in1"):
        Mask.parse("in1-IN02").ranks(SD, 8)


@pytest.mark.parametrize("text", ["all:0", "all+all:0", "in0:0", "out1+out:0"])
def test_a_mask_that_trains_nothing_is_refused(text):
    with pytest.raises(MaskError, match="trains nothing"):
        Mask.parse(text).ranks(SD, 8)


def test_mask_errors_are_the_users_and_reported_with_other_parameters():
    assert issubclass(MaskError, UserError)
    assert issubclass(MaskError, ValueError)


def test_masks_survive_json():
    text = "all+in0:0+OUT03-OUT05:16"
    assert json.loads(json.dumps(text)) == str(Mask.parse(text))
