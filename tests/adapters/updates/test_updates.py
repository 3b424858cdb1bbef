"""Every update against PEFT's own layers: what they hold, what they compute, what they merge."""

import copy

import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, inject_adapter_in_model
from torch import nn

from blockwise_lora.adapters import Dora, Hadamard, Kronecker, LowRank, Orthogonal

LAYERS = {
    "linear": lambda: nn.Linear(12, 20),
    "1x1": lambda: nn.Conv2d(12, 20, 1),
    "3x3": lambda: nn.Conv2d(12, 20, 3, padding=1),
}
RANK, ALPHA = 4, 6  # alpha differs from rank, so that a forgotten scale shows


def injected(kind: str, config) -> tuple[nn.Module, nn.Module]:
    """A PEFT layer with arbitrary weights, and the layer below it."""
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS[kind]())
    plain = copy.deepcopy(model[0])
    inject_adapter_in_model(config, model, "a")
    with torch.no_grad():
        for parameter in (p for p in model.parameters() if p.requires_grad):
            parameter += 0.2 * torch.randn_like(parameter)
    return model[0], plain


def state(layer: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names that PEFT saves."""
    named = {
        key.replace(".a.", ".").removesuffix(".a"): value.detach()
        for key, value in layer.named_parameters()
        if value.requires_grad
    }
    if "lora_magnitude_vector.weight" in named:
        named["lora_magnitude_vector"] = named.pop("lora_magnitude_vector.weight")
    return named


def lora(**options) -> LoraConfig:
    return LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["0"], **options)


def loha(**options) -> LoHaConfig:
    return LoHaConfig(r=RANK, alpha=ALPHA, target_modules=["0"], **options)


def lokr(rank: int = RANK, **options) -> LoKrConfig:
    return LoKrConfig(r=rank, alpha=ALPHA, target_modules=["0"], **options)


def oft(**options) -> OFTConfig:
    return OFTConfig(r=0, oft_block_size=RANK, target_modules=["0"], **options)


CASES = {
    "lora": (lora(), lambda t, w: LowRank.from_tensors(t, ALPHA / RANK)),
    "rslora": (lora(use_rslora=True), lambda t, w: LowRank.from_tensors(t, ALPHA / RANK**0.5)),
    "dora": (lora(use_dora=True), lambda t, w: Dora.from_tensors(t, ALPHA / RANK)),
    "loha": (loha(), lambda t, w: Hadamard.from_tensors(t, ALPHA / RANK, w.shape)),
    "loha, kernel": (
        loha(use_effective_conv2d=True),
        lambda t, w: Hadamard.from_tensors(t, ALPHA / RANK, w.shape),
    ),
    "lokr": (lokr(), lambda t, w: Kronecker.from_tensors(t, ALPHA / RANK, w.shape, RANK)),
    "lokr, low": (lokr(2), lambda t, w: Kronecker.from_tensors(t, ALPHA / 2, w.shape, 2)),
    "lokr, both": (
        lokr(1, decompose_both=True),
        lambda t, w: Kronecker.from_tensors(t, ALPHA, w.shape, 1),
    ),
    "lokr, kernel": (
        lokr(1, use_effective_conv2d=True),
        lambda t, w: Kronecker.from_tensors(t, ALPHA, w.shape, 1),
    ),
    "oft": (
        oft(use_cayley_neumann=False),
        lambda t, w: Orthogonal.from_tensors(t, w.shape),
    ),
    **{
        f"oft, {n} terms": (
            oft(num_cayley_neumann_terms=n),
            lambda t, w, n=n: Orthogonal.from_tensors(t, w.shape, n),
        )
        for n in range(1, 8)
    },
}


def cases():
    for method in CASES:
        for kind in LAYERS:
            if not (method.startswith("oft") and kind == "3x3"):
                yield pytest.param(method, kind, id=f"{method}-{kind}")


@pytest.fixture
def pair(request):
    method, kind = request.param
    config, make = CASES[method]
    layer, plain = injected(kind, copy.deepcopy(config))
    return layer, plain, make(state(layer), plain.weight.detach())


every = pytest.mark.parametrize(
    "pair", [pytest.param(c.values, id=c.id) for c in cases()], indirect=True
)


@every
def test_the_change_is_what_pefts_layer_merges_and_computes(pair):
    layer, plain, update = pair
    weight = plain.weight.detach().clone()
    delta = update.delta(weight)
    assert delta.shape == weight.shape == update.shape
    layer.eval()
    x = torch.randn(3, 12, *((5, 5) if weight.dim() == 4 else ()))
    with torch.no_grad():
        expected = layer(x)
        plain.weight += delta
        assert torch.allclose(plain(x), expected, atol=1e-5)
        layer.merge()
    torch.testing.assert_close(layer.get_base_layer().weight.detach(), weight + delta)


@every
def test_the_change_is_pefts_delta_weight(pair):
    layer, plain, update = pair
    weight = plain.weight.detach()
    with torch.no_grad():
        theirs = layer.get_delta_weight("a")
    if isinstance(update, Dora):  # theirs is that of the low-rank part
        torch.testing.assert_close(update.low_rank.delta(), theirs)
    elif isinstance(update, Orthogonal):  # theirs is the rotation
        torch.testing.assert_close(torch.block_diag(*update.rotations()), theirs)
    else:
        torch.testing.assert_close(update.delta(), theirs)
    assert update.norm(weight) == pytest.approx(update.delta(weight).norm().item(), rel=1e-5)


@every
def test_tensors_are_pefts_and_read_back(pair):
    layer, _, update = pair
    found = update.tensors()
    assert found.keys() == state(layer).keys()
    assert all(torch.equal(found[key], value) for key, value in state(layer).items())


@every
def test_a_change_that_needs_the_weight_says_so(pair):
    _, plain, update = pair
    if update.needs_base:
        for function in (update.delta, update.norm):
            with pytest.raises(ValueError, match="depends on the layer's own weight"):
                function()
    else:
        assert torch.equal(update.delta(), update.delta(plain.weight.detach()))


def test_an_exact_rotation_keeps_lengths_and_the_series_only_nearly():
    blocks = 0.3 * torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    one = torch.eye(4).expand(3, 4, 4)
    exact, series = Orthogonal(blocks, (20, 12)), Orthogonal(blocks, (20, 12), 5)
    assert exact.rank == series.rank == 4
    torch.testing.assert_close(exact.rotations() @ exact.rotations().mT, one)
    error = (series.rotations() @ series.rotations().mT - one).abs().max()
    assert error > 0.01


def test_worked_by_hand():
    """Small enough for pencil and paper."""
    one = torch.tensor([[1.0, 2.0]])
    hadamard = Hadamard(
        torch.tensor([[1.0], [2.0]]), one, torch.tensor([[3.0], [1.0]]), one, (2, 2), 0.5
    )
    assert hadamard.delta().tolist() == [[1.5, 6.0], [1.0, 4.0]]
    kronecker = Kronecker(
        (2, 4), 2.0, 1, w1=torch.tensor([[1.0, -1.0]]), w2=torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    )
    assert kronecker.delta().tolist() == [[2, 0, -2, 0], [4, 6, -4, -6]]
    dora = Dora(
        LowRank(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0], [0.0]]), 1.0),
        torch.tensor([10.0, 3.0]),
    )
    weight = torch.tensor([[1.0, 4.0], [0.0, 1.0]])  # with B A: (3, 4) of length 5, and (0, 1)
    assert dora.delta(weight).tolist() == [[5.0, 4.0], [0.0, 2.0]]
    # tan(45 / 2 degrees) turns by 45: Cayley's transform of q turns by 2 atan q.
    turn = Orthogonal(torch.tensor([[2**0.5 - 1]]), (1, 2))
    expected = torch.tensor([[0.5**0.5 - 1, 0.5**0.5]])
    torch.testing.assert_close(turn.delta(torch.tensor([[1.0, 0.0]])), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda t: LowRank.from_tensors({"lora_A.weight": t(2, 3), "lora_B.weight": t(4, 3)}, 1),
            "A",
        ),
        (
            lambda t: LowRank.from_tensors({"lora_A.weight": t(0, 3), "lora_B.weight": t(4, 0)}, 1),
            "A",
        ),
        (
            lambda t: LowRank.from_tensors(
                {"lora_A.weight": t(2, 3, 3, 3), "lora_B.weight": t(4, 2, 3, 3)}, 1
            ),
            "kernel",
        ),
        (
            lambda t: Dora.from_tensors(
                {"lora_A.weight": t(2, 3), "lora_B.weight": t(4, 2), "lora_magnitude_vector": t(3)},
                1,
            ),
            "3 magnitudes for 4 outputs",
        ),
        (
            lambda t: Hadamard.from_tensors(
                {
                    "hada_w1_a": t(4, 2),
                    "hada_w1_b": t(2, 3),
                    "hada_w2_a": t(4, 2),
                    "hada_w2_b": t(2, 5),
                },
                1,
                (4, 3),
            ),
            "LoHa",
        ),
        (lambda t: Kronecker.from_tensors({"lokr_w1": t(2, 2)}, 1, (4, 4), 2), "LoKr"),
        (
            lambda t: Kronecker.from_tensors(
                {"lokr_w1": t(2, 2), "lokr_w2": t(2, 3)}, 1, (4, 4), 2
            ),
            "LoKr",
        ),
        (lambda t: Orthogonal.from_tensors({"oft_R.weight": t(3, 5)}, (4, 12)), "rotations"),
        (lambda t: Orthogonal.from_tensors({"oft_R.weight": t(3, 6)}, (4, 12, 3, 3)), "1x1"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make(torch.zeros)


def test_lokr_is_checked_without_being_worked_out():
    """The first factor alone would take 64 GiB."""
    n = 131072
    factors = {"w1_a": (n, 1), "w1_b": (1, n), "w2": (1, 1)}
    tensors = {f"lokr_{name}": torch.ones(shape) for name, shape in factors.items()}
    assert Kronecker.from_tensors(tensors, 1.0, (n, n), 1).shape == (n, n)
    with pytest.raises(ValueError, match="make"):
        Kronecker.from_tensors(tensors, 1.0, (n, n + 1), 1)
