"""The choice, against the papers' rule applied to full matrices, one layer and step at a time."""

import pytest
import torch

from blockwise_lora.adapters.merge import KLora
from blockwise_lora.adapters.merge.klora import advantages, top_sum, trimmed_mean
from blockwise_lora.adapters.merge.parts import Part
from blockwise_lora.adapters.updates import LowRank


def update(rows, scale=1.0):
    """A change of rank 2 whose matrix is given row by row."""
    return LowRank(torch.tensor(rows), torch.eye(2), scale)


def test_the_scale_of_the_style_by_hand():
    rule = KLora()
    assert [rule.scale(step, 4) for step in range(4)] == [0.5, 0.875, 1.25, 1.625]
    starred = KLora(beta=1.275, wrap=True)  # S*: starts high, falls to 0 and rises
    assert [starred.scale(step, 4) for step in range(4)] == pytest.approx([1.275, 0.15, 0.525, 0.9])


def test_a_layer_by_hand():
    content = update([[3.0, 0.0, -2.0], [1.0, 0.0, 0.0]])
    style = update([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    # K = 2 * 2: S_c = 3 + 2 + 1 + 0 = 6, S_s = 4; gamma = 6 / 6 = 1
    found = advantages({"layer": (Part(0, content, 1.0), Part(1, style, 1.0))})
    assert found == {"layer": pytest.approx(1.5)}


def test_gamma_makes_up_for_a_loud_adapter():
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

    assert advantages(pairs(100.0)) == pytest.approx(advantages(pairs(1.0)))


def test_outliers_are_left_out_of_gamma():
    assert trimmed_mean([1.0, 2.0, 3.0]) == 2
    assert trimmed_mean([1.0, 1.0, 1.0, 1.0, 100.0]) == 1
    assert trimmed_mean([]) == 1


def test_top_sum():
    assert top_sum(torch.tensor([[1.0, 5.0], [3.0, 4.0]]), 2) == 9


def test_as_the_authors_rule_on_full_matrices():
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
    rule, found = KLora(), advantages(pairs)

    matrices = {
        k: (c.update.up @ c.update.down, s.update.up @ s.update.down) for k, (c, s) in pairs.items()
    }
    ratios = [(c.abs().sum() / s.abs().sum()).item() for c, s in matrices.values()]
    mean = sum(ratios) / len(ratios)
    inner = [ratio for ratio in ratios if ratio < 3 * mean]
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
