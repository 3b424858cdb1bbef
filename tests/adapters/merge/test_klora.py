"""The choice, against the paper's and the code's rule applied to full matrices, one at a time."""

import pytest
import torch

from blockwise_lora.adapters.merge import KLora, Stepwise
from blockwise_lora.adapters.merge.klora import advantages, of_ratios, of_sums, top_sum
from blockwise_lora.adapters.merge.parts import Part
from blockwise_lora.adapters.updates import LowRank


def update(rows, scale=1.0):
    """A change of rank 2 whose matrix is given row by row."""
    return LowRank(torch.tensor(rows), torch.eye(2), scale)


def test_the_scale_of_the_style_by_hand():
    rule = KLora()
    assert [rule.scale(step, 4) for step in range(4)] == [0.5, 0.875, 1.25, 1.625]
    starred = KLora(beta=1.275, wrap=True)  # S*: starts high, falls and rises
    assert [starred.scale(step, 4) for step in range(4)] == pytest.approx([1.275, 0.15, 0.525, 0.9])


def test_a_layer_by_hand():
    content = update([[3.0, 0.0, -2.0], [1.0, 0.0, 0.0]])
    style = update([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    # K = 2 * 2: S_c = 3 + 2 + 1 + 0 = 6, S_s = 4; gamma = 6 / 6 = 1
    found = advantages({"layer": (Part(0, content, 1.0), Part(1, style, 1.0))})
    assert found == {"layer": pytest.approx(1.5)}


@pytest.mark.parametrize("gamma", ["sums", "ratios"])
def test_gamma_makes_up_for_a_loud_adapter(gamma):
    quiet = {"a": update([[3.0, 0.0], [0.0, 0.0]]), "b": update([[1.0, 1.0], [1.0, 1.0]])}
    styles = {"a": update([[1.0, 1.0], [1.0, 0.0]]), "b": update([[3.0, 1.0], [0.0, 0.0]])}

    def pairs(scale):
        return {
            name: (
                Part(0, LowRank(quiet[name].down, quiet[name].up, scale), 1.0),
                Part(1, styles[name], 1.0),
            )
            for name in quiet
        }

    assert advantages(pairs(100.0), gamma) == pytest.approx(advantages(pairs(1.0), gamma))


def test_gamma_by_hand():
    sums = [(6.0, 3.0), (2.0, 2.0), (4.0, 1.0)]
    assert of_sums(sums) == 2  # 12 / 6
    assert of_ratios(sums) == pytest.approx(7 / 3)  # the mean of 2, 1 and 4
    assert of_ratios([(1.0, 1.0)] * 4 + [(100.0, 1.0)]) == 1  # an outlier is left out
    assert of_sums([]) == of_ratios([]) == of_sums([(1.0, 0.0)]) == of_ratios([(1.0, 0.0)]) == 1


def test_top_sum():
    assert top_sum(torch.tensor([[1.0, 5.0], [3.0, 4.0]]), 2) == 9


@pytest.mark.parametrize("gamma_by", ["sums", "ratios"])
def test_as_the_published_rule_on_full_matrices(gamma_by):
    generator = torch.Generator().manual_seed(1)
    pairs = {}
    for i in range(12):
        sizes = torch.rand(2, generator=generator) + 0.2
        made = [
            LowRank(
                torch.randn(r, 9, generator=generator),
                size * torch.randn(7, r, generator=generator) ** 3,
                1.0,
            )
            for r, size in zip((3, 2), sizes, strict=True)
        ]
        pairs[f"layer{i}"] = (Part(0, made[0], 1.0), Part(1, made[1], 1.0))
    rule, found = KLora(gamma=gamma_by), advantages(pairs, gamma_by)

    matrices = {
        k: (c.update.up @ c.update.down, s.update.up @ s.update.down) for k, (c, s) in pairs.items()
    }
    sums = [(c.abs().sum().item(), s.abs().sum().item()) for c, s in matrices.values()]
    if gamma_by == "sums":  # equation 9
        gamma = sum(c for c, _ in sums) / sum(s for _, s in sums)
    else:  # the authors' get_ratio_between_content_and_style
        ratios = [c / s for c, s in sums]
        inner = [ratio for ratio in ratios if ratio < 3 * sum(ratios) / len(ratios)]
        gamma = sum(inner) / len(inner)
    decided = set()
    for step in range(10):
        for name, (content, style) in matrices.items():
            k = 3 * 2
            s_c = content.abs().flatten().sort(descending=True).values[:k].sum() / gamma
            s_s = style.abs().flatten().sort(descending=True).values[:k].sum()
            s_s = s_s * (1.5 * step / 10 + 0.5)
            wants_content = bool(s_c / s_s > 1)
            decided.add((step, wants_content))
            assert (found[name] > rule.scale(step, 10)) == wants_content
    assert {(0, True), (9, False)} <= decided  # both happen


def test_a_tie_is_the_contents():
    """Equation 6: S_c >= S_s."""
    same = update([[1.0, 0.0], [0.0, 0.0]])
    found = advantages({"layer": (Part(0, same, 1.0), Part(1, same, 1.0))})
    merged = Stepwise((), KLora(beta=1.0), found, {})
    assert [merged.chosen(step, 2)["layer"] for step in range(2)] == [0, 1]


def test_layers_that_do_nothing():
    nothing, something = update([[0.0, 0.0], [0.0, 0.0]]), update([[1.0, 0.0], [0.0, 0.0]])
    found = advantages(
        {
            "a": (Part(0, something, 1.0), Part(1, nothing, 1.0)),
            "b": (Part(0, nothing, 1.0), Part(1, something, 1.0)),
            "c": (Part(0, something, 1.0), Part(1, something, 1.0)),
        }
    )
    assert found == {"a": float("inf"), "b": 0.0, "c": 1.0}
