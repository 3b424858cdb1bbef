import pytest

from blockwise_lora.imagesets import CurationConfig
from blockwise_lora.parameters import ParameterError, typed


def test_all_mistakes_at_once():
    wrong = {"resolution": 63, "square": "cropp", "hash_bits": 65}
    with pytest.raises(ParameterError, match="did you mean 'crop'"):
        typed(CurationConfig, wrong, "curation")
    wrong = {"resolution": 63, "background": "whit", "workers": 0}
    with pytest.raises(ParameterError) as caught:
        typed(CurationConfig, wrong, "curation")
    for part in ("multiple of 8", "'whit' is no colour", "workers"):
        assert part in str(caught.value)
