import pytest

from blockwise_lora.adapters import AdapterSpec
from blockwise_lora.blocks import MaskError
from blockwise_lora.parameters import ParameterError, typed


def test_scale_is_one_unless_alpha_says_otherwise():
    assert AdapterSpec(rank=16).scale == 1
    assert AdapterSpec(rank=16, alpha=4).scale == 0.25


def test_convolutions_share_the_scale_or_have_their_own():
    assert AdapterSpec(method="locon", rank=16, alpha=4, conv_rank=4).conv_scale == 0.25
    assert AdapterSpec(method="locon", conv_rank=4, conv_alpha=2).conv_scale == 0.5
    assert AdapterSpec(method="locon", rank=8, conv_alpha=2).conv_scale == 0.25


def test_equal_masks_make_equal_specifications():
    assert AdapterSpec("ALL+IN0:00") == AdapterSpec("all+in0:0")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank is at least 1, not 0; to skip blocks, use the mask"),
        ({"method": "locon", "conv_rank": -1}, "conv_rank is at least 1"),
        ({"alpha": 0.0}, "alpha is a positive number"),
        ({"alpha": float("nan")}, "alpha is a positive number"),
        ({"conv_rank": 4}, "are for method locon"),
        ({"conv_alpha": 4.0}, "are for method locon"),
        ({"method": "dora"}, "method is lora or locon, not 'dora'"),
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
