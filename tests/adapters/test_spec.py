import pytest

from blockwise_lora.adapters import AdapterSpec
from blockwise_lora.blocks import MaskError
from blockwise_lora.parameters import ParameterError, typed


def test_scale_is_one_unless_alpha_says_otherwise():
    assert AdapterSpec(rank=16).scale(16) == 1
    assert AdapterSpec(rank=16, alpha=4).scale(16) == 0.25
    # A mask's own rank changes how much is learned, not how strongly it acts.
    assert AdapterSpec(rank=16, alpha=4).scale(64) == 0.25


def test_convolutions_share_the_scale_or_have_their_own():
    def conv(**values):
        return AdapterSpec(method="locon", **values).scale(4, spatial=True)

    assert conv(rank=16, alpha=4, conv_rank=4) == 0.25
    assert conv(conv_rank=4, conv_alpha=2) == 0.5
    assert conv(rank=8, conv_alpha=2) == 0.25


def test_rslora_divides_by_the_root_of_each_layers_own_rank():
    spec = AdapterSpec(method="rslora", rank=16, alpha=8)
    assert (spec.scale(16), spec.scale(4), spec.scale(64)) == (2, 4, 1)
    assert AdapterSpec(method="rslora", rank=16).scale(16) == 4
    conv = AdapterSpec(method="rslora", conv=True, alpha=8, conv_alpha=2)
    assert (conv.scale(4), conv.scale(4, spatial=True)) == (4, 1)


def test_a_blocks_own_alpha_is_over_the_layers_rank():
    spec = AdapterSpec(method="locon", rank=8, alpha=2, conv_alpha=1, alphas={"in0": 12})
    assert spec.scale(4, alpha=12) == spec.scale(4, spatial=True, alpha=12) == 3
    assert AdapterSpec(method="rslora").scale(4, alpha=12) == 6


def test_equal_masks_make_equal_specifications():
    assert AdapterSpec("ALL+IN0:00") == AdapterSpec("all+in0:0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank is at least 1, not 0; to skip blocks, use the mask"),
        ({"method": "locon", "conv_rank": -1}, "conv_rank is at least 1"),
        ({"alpha": 0.0}, "alpha is a positive number"),
        ({"alpha": float("nan")}, "alpha is a positive number"),
        ({"conv_rank": 4}, "are for 3x3 layers.*method locon, or conv: true"),
        ({"conv_alpha": 4.0}, "are for 3x3 layers"),
        ({"method": "loha", "conv_rank": 4}, "are for 3x3 layers"),
        ({"method": "dara"}, "method is one of lora, locon, .*, not 'dara'"),
        ({"conv": True}, "on the convolutions as well is method locon"),
        ({"method": "oft", "conv": True}, "3x3 convolutions PEFT's is not the identity"),
        ({"method": "oft", "alpha": 4.0}, "a rotation .* has no scale"),
        ({"method": "oft", "alphas": {"in0": 4.0}}, "a rotation .* has no scale"),
        ({"alphas": {"in0": 0.0}}, "alphas: in0: 0.0 is not positive"),
        ({"rates": {"in0": -1.0}}, "rates: in0: -1.0 is not 0 or more"),
        ({"rates": {"upp": 1.0}}, "rates: .*did you mean 'upper'"),
        ({"rates": {"in0:4": 1.0}}, "rates: .*has a rank"),
        ({"init": "pissa"}, "changes the base model's weights"),
        ({"init": "olora"}, "changes the base model's weights"),
        ({"init": "random"}, "init is default or orthogonal"),
        ({"init": "orthogonal", "rank": 3}, "rank is even, not 3"),
        ({"init": "orthogonal", "method": "loha"}, "init orthogonal is for lora, locon"),
        ({"blocks": "all,mid"}, "',' is not allowed"),
    ],
)
def test_values_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AdapterSpec(**changes)


def test_a_wrong_mask_alone_is_a_mask_error():
    with pytest.raises(MaskError):
        AdapterSpec("upp")


def test_as_parameters_all_mistakes_come_at_once():
    with pytest.raises(ParameterError) as error:
        typed(AdapterSpec, {"blocks": "al", "rank": 0}, "character")
    assert "character: rank is at least 1" in str(error.value)
    assert "character: mask 'al', position 1" in str(error.value)


def test_json_round_trip():
    spec = AdapterSpec("all+in0:0", "locon", 16, 4.5, 8, 2)
    assert AdapterSpec.from_json(spec.to_json()) == spec
    assert AdapterSpec.from_json(AdapterSpec().to_json()) == AdapterSpec()


@pytest.mark.parametrize(
    "spec",
    [
        AdapterSpec("mid", "dora", conv=True, conv_rank=4, alphas={"in0": 3.0}),
        AdapterSpec(method="rslora", init="orthogonal", rates={"out1-out3": 0.5, "mid": 0}),
        AdapterSpec(method="oft", rank=16),
    ],
)
def test_json_round_trip_of_options(spec):
    assert AdapterSpec.from_json(spec.to_json()) == spec


def test_options_that_are_not_set_are_not_said():
    assert AdapterSpec().to_json() == (
        '{"alpha": null, "blocks": "all", "conv_alpha": null, "conv_rank": null, '
        '"method": "lora", "rank": 8}'
    )
