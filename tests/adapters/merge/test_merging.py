"""One call for all rules: against PEFT's `add_weighted_adapter`, and in itself."""

import json

import pytest
import torch

from blockwise_lora.adapters.merge import (
    Dare,
    KLora,
    Linear,
    MagnitudePrune,
    MergedAdapter,
    MergeError,
    Pick,
    Stepwise,
    Sum,
    Svd,
    Ties,
    Weighted,
    ZipLora,
    merge,
)
from blockwise_lora.adapters.updates import LowRank

ALL = ("linear", "conv", "pointwise")
SHARED = {"first": (ALL, 4, 6.0), "second": (("conv", "pointwise", "other"), 4, 2.0)}


def change(rank=2, out=6, inputs=(9,), seed=0, scale=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    ones = [1] * (len(inputs) - 1)
    down = torch.randn(rank, *inputs, generator=generator)
    up = torch.randn(out, rank, *ones, generator=generator)
    return LowRank(down.to(dtype), up.to(dtype), scale)


def relative(one, other):
    return (torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other)).item()


@pytest.fixture
def pair(peft_model, from_peft):
    """Two of PEFT's adapters that share two layers of three, weighted, and the model with them."""
    model = peft_model(**SHARED)
    weights = [0.8, -1.3]
    adapters = [
        Weighted(from_peft(model, name), weight)
        for name, weight in zip(SHARED, weights, strict=True)
    ]
    return adapters, model, weights


def assert_same(merged, expected):
    assert set(merged.adapter.updates) == set(expected)
    for module, delta in expected.items():
        found = merged.adapter.updates[module].delta()
        assert found.shape == delta.shape
        assert relative(found, delta) < 2e-6, module


def test_sum_is_pefts_cat(pair, peft_deltas):
    adapters, model, weights = pair
    merged = merge(adapters, Sum())
    assert isinstance(merged, MergedAdapter)
    assert merged.errors == {}
    assert_same(merged, peft_deltas(model, weights, "cat"))
    ranks = {module: update.rank for module, update in merged.adapter.updates.items()}
    assert ranks == {"linear": 4, "conv": 8, "pointwise": 8, "other": 4}


@pytest.mark.parametrize("rank", [3, 5])
def test_svd_is_pefts(pair, peft_deltas, rank):
    adapters, model, weights = pair
    merged = merge(adapters, Svd(rank))
    exact = merge(adapters, Sum()).adapter.updates
    assert_same(merged, peft_deltas(model, weights, "svd", svd_rank=rank))
    assert set(merged.errors) == set(exact) if rank == 3 else {"conv", "pointwise"}
    for module, update in merged.adapter.updates.items():
        wanted = exact[module].delta()
        assert merged.errors.get(module, 0.0) == pytest.approx(
            relative(update.delta(), wanted), abs=1e-6
        )
        assert update.rank == min(rank, exact[module].rank)


def test_linear_is_pefts_and_tells_how_wrong_it_is(pair, peft_deltas):
    """It is exact where nothing is shared, and in the shared layers its error is no detail."""
    adapters, model, weights = pair
    merged = merge(adapters, Linear())
    assert_same(merged, peft_deltas(model, weights, "linear"))
    exact = merge(adapters, Sum()).adapter.updates
    assert set(merged.errors) == {"conv", "pointwise"}
    for module, error in merged.errors.items():
        update = merged.adapter.updates[module]
        assert error == pytest.approx(relative(update.delta(), exact[module].delta()), rel=1e-5)
        assert error > 0.3
        assert merge(adapters, Svd(4)).errors[module] < error


@pytest.mark.parametrize("rule", [Linear(), MagnitudePrune(0.4, 4), Ties(0.4, rank=4)])
def test_linear_exact_and_pruning_without_effect_on_disjoint_masks(make_adapter, rule):
    """PEFT refuses different ranks here, and prunes what there is nothing to reconcile with."""
    adapters = [
        Weighted(make_adapter({"linear": change(4)})),
        Weighted(make_adapter({"other": change(2, seed=1)}), 0.5),
    ]
    merged = merge(adapters, rule)
    assert merged.errors == {}
    assert merged.adapter.updates["linear"] is adapters[0].adapter.updates["linear"]
    assert merged.adapter.updates["other"].scale == 0.5


@pytest.mark.parametrize(
    ("rule", "name", "options"),
    [
        (MagnitudePrune(0.4, 6, everywhere=True), "magnitude_prune_svd", {"density": 0.4}),
        (Ties(0.4, rank=6, everywhere=True), "ties_svd", {"density": 0.4}),
        (
            Ties(0.7, "frequency", 6, everywhere=True),
            "ties_svd",
            {"density": 0.7, "majority_sign_method": "frequency"},
        ),
    ],
)
def test_pruning_of_changes_is_pefts(pair, peft_deltas, rule, name, options):
    adapters, model, weights = pair
    merged = merge(adapters, rule)
    assert_same(merged, peft_deltas(model, weights, name, svd_rank=6, **options))
    assert merged.errors  # what is pruned has full rank
    alone = merge(adapters, type(rule)(0.4, rank=6)).adapter.updates
    kept = adapters[0].adapter.updates["linear"]
    assert relative(alone["linear"].delta(), 0.8 * kept.delta()) < 1e-6


def test_dare_keeps_the_expectation_and_lone_layers(pair):
    adapters, *_ = pair
    exact = merge(adapters, Sum()).adapter.updates
    draws = [merge(adapters, Dare(0.5, seed, rank=8)).adapter.updates for seed in range(60)]
    for module in ("conv", "pointwise"):
        mean = torch.stack([updates[module].delta() for updates in draws]).mean(dim=0)
        assert relative(mean, exact[module].delta()) < 0.25  # one draw: 1
    for module in ("linear", "other"):
        assert all(torch.equal(updates[module].delta(), exact[module].delta()) for updates in draws)


def test_different_ranks_everywhere(make_adapter):
    """PEFT refuses linear, ties, dare and magnitude_prune for adapters of different max rank."""
    adapters = [
        Weighted(make_adapter({"linear": change(5), "conv": change(3, inputs=(4, 3, 3))})),
        Weighted(make_adapter({"linear": change(2, seed=1), "other": change(1, seed=2)})),
    ]
    for rule in (Sum(), Svd(2), MagnitudePrune(0.5, 4), Ties(0.5, rank=4), Dare(0.5, rank=4)):
        assert set(merge(adapters, rule).adapter.updates) == {"linear", "conv", "other"}
    with pytest.raises(MergeError, match=r"linear the ranks are 5, 2: take svd"):
        merge(adapters, Linear())


def test_merging_is_deterministic_and_tells_where_it_comes_from(make_adapter):
    def run(rank=3):
        made = [
            Weighted(make_adapter({"linear": change(4)}, sha256="a" * 64), name="cat"),
            Weighted(make_adapter({"linear": change(4, seed=1)}, sha256="b" * 64), 0.8),
        ]
        return merge(made, Svd(rank)).adapter

    one, two = run(), run()
    assert torch.equal(one.updates["linear"].down, two.updates["linear"].down)
    assert one.sha256 == two.sha256
    assert one.sha256 != run(2).sha256
    assert json.loads(one.metadata["blockwise_lora.merge"]) == {
        "rule": "svd",
        "parameters": {"rank": 3},
        "adapters": [
            {"name": "cat", "sha256": "a" * 64, "mask": None, "weight": 1.0},
            {"name": "", "sha256": "b" * 64, "mask": None, "weight": 0.8},
        ],
    }


def test_weights_by_sub_block(make_adapter):
    updates = {"linear": change(), "other": change(seed=1)}
    doubled = Weighted(make_adapter(updates), {"IN01": 2.0, "OUT00": 0.0})
    merged = merge([doubled, Weighted(make_adapter({"conv": change(seed=2)}))], Sum()).adapter
    assert set(merged.updates) == {"linear", "conv"}
    assert torch.equal(merged.updates["linear"].delta(), 2 * updates["linear"].delta())
    assert dict(merged.sub_blocks) == {"linear": "IN01", "conv": "IN02"}


def test_ziplora_scales_columns_outside_the_rank(make_adapter):
    one = {"linear": change(2), "conv": change(2, inputs=(4, 3, 3), scale=0.5)}
    two = {"linear": change(3, seed=1), "conv": change(1, inputs=(4, 3, 3), seed=2)}
    generator = torch.Generator().manual_seed(5)
    columns = tuple(
        {"linear": torch.rand(9, generator=generator), "conv": torch.rand(4, generator=generator)}
        for _ in range(2)
    )
    adapters = [Weighted(make_adapter(one)), Weighted(make_adapter(two), 0.5)]
    merged = merge(adapters, ZipLora(columns, {"steps": 3})).adapter.updates
    linear = one["linear"].delta() * columns[0]["linear"]
    linear = linear + 0.5 * two["linear"].delta() * columns[1]["linear"]
    assert relative(merged["linear"].delta(), linear) < 1e-6
    assert merged["linear"].rank == 5
    conv = one["conv"].delta() * columns[0]["conv"].reshape(1, 4, 1, 1)
    conv = conv + 0.5 * two["conv"].delta() * columns[1]["conv"].reshape(1, 4, 1, 1)
    assert relative(merged["conv"].delta(), conv) < 1e-6


def test_klora_is_a_choice_at_each_step(make_adapter):
    strong, weak = change(2), LowRank(change(2).down, 0.4 * change(2).up, 1.0)
    content = {"linear": strong, "other": weak, "conv": change(seed=3)}
    style = {"linear": weak, "other": strong, "pointwise": change(seed=4)}
    merged = merge([Weighted(make_adapter(content)), Weighted(make_adapter(style))], KLora())
    assert isinstance(merged, Stepwise)
    # gamma = 1.4 / 1.4, so the ratios are 2.5 and 0.4; the bound runs from 0.5 to 1.85
    assert merged.advantages == pytest.approx({"linear": 2.5, "other": 0.4})
    chosen = [merged.chosen(step, 10) for step in range(10)]
    assert [choice["linear"] for choice in chosen] == [0] * 10
    assert [choice["other"] for choice in chosen] == [1] * 10
    assert chosen[3] == merged.chosen(3, 10)  # it does not count its calls


@pytest.mark.parametrize(
    ("rule", "bake", "count", "message"),
    [
        (Sum(), False, 1, "one adapter alone is no merge"),
        (Sum(), False, 0, "there is no adapter"),
        (Sum(), True, 2, "bakes into the base model here: name one"),
        (Ties(), False, 2, "name one, or a rank to make an adapter"),
        (Pick(("in0", "out0")), False, 2, "needs the base model"),
        (KLora(), False, 3, "exactly two"),
        (KLora(), True, 2, "cannot be baked"),
        (ZipLora(({}, {}), {}), False, 3, "factors for 2 adapters"),
    ],
)
def test_what_cannot_be(make_adapter, rule, bake, count, message):
    adapters = [Weighted(make_adapter({"linear": change(seed=i)})) for i in range(count)]
    with pytest.raises(MergeError, match=message):
        merge(adapters, rule, bake=bake)


def test_adapters_that_do_not_go_together(make_adapter):
    first = Weighted(make_adapter({"linear": change()}))
    with pytest.raises(MergeError, match=r"different models.*linear is \(6, 7\) and \(6, 9\)"):
        merge([first, Weighted(make_adapter({"linear": change(inputs=(7,))}))], Sum())
    with pytest.raises(MergeError, match="nothing is left"):
        merge([Weighted(first.adapter, 0.0)] * 2, Sum())
    with pytest.raises(MergeError, match="not finite"):
        Weighted(first.adapter, float("nan"))
