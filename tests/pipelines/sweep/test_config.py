import pytest

from blockwise_lora.parameters import ParameterError
from blockwise_lora.pipelines.sweep.config import SweepConfig


def test_what_a_search_cannot_pay_for_is_told_as_a_parameter_mistake():
    search = {"trainings": 2, "screening": 1.0, "finalists": 0}
    with pytest.raises(ParameterError) as caught:
        SweepConfig.of({"prompts": ["{character}"], "search": search})
    told = str(caught.value)
    assert "sweep.search: trainings is above 2, not 2.0: two full adapters" in told
    assert "sweep.search: screening is in [0, 1), not 1.0" in told
    assert "sweep.search: finalists is at least 1, not 0" in told


def test_the_price_is_what_was_asked_for():
    search = {"trainings": 2.5, "screening": 0.0, "finalists": 3}
    budget = SweepConfig.of({"prompts": ["{character}"], "search": search}).search.budget
    assert (budget.trainings, budget.screening, budget.finalists) == (2.5, 0.0, 3)
