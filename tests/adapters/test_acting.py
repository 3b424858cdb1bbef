"""Any methods in any order in one layer: the answer is the plain one plus every change's share."""

from itertools import permutations, product

import pytest
import torch
from torch import nn

from blockwise_lora.adapters import Dora, Hadamard, Kronecker, LowRank, Orthogonal
from blockwise_lora.adapters.acting import strength, trained_scale
from blockwise_lora.adapters.layers import activate, levels
from blockwise_lora.adapters.wrapping import read, unwrap, wrap

KINDS = (LowRank, Dora, Hadamard, Kronecker, Orthogonal)
LAYERS = {
    "linear": (lambda: nn.Linear(12, 8), (3, 5, 12)),
    "1x1": (lambda: nn.Conv2d(12, 8, 1), (2, 12, 5, 5)),
    "3x3": (lambda: nn.Conv2d(12, 8, 3, padding=1, stride=2), (2, 12, 6, 6)),
}
CASES = [
    (kinds, layer)
    for kinds, layer in product(product(KINDS, repeat=2), LAYERS)
    if not (layer == "3x3" and Orthogonal in kinds)
]


def trained(kind, layer, seed):
    """An update of some values, as training would leave it."""
    generator = torch.Generator().manual_seed(seed)

    def values(tensor, around=0.0):
        return around + 0.3 * torch.randn(tensor.shape, generator=generator)

    shape = tuple(layer.weight.shape)
    if kind is Orthogonal:
        return Orthogonal(values(Orthogonal.empty(shape, 4).blocks), shape)
    empty = kind.empty(shape, 2, 0.5 + seed)
    tensors = {key: values(tensor) for key, tensor in empty.tensors().items()}
    if kind is Dora:
        tensors["lora_magnitude_vector"] = values(empty.magnitude, around=1.0)
    if kind in (Hadamard, Kronecker):
        rank = (2,) if kind is Kronecker else ()
        return kind.from_tensors(tensors, empty.scale, shape, *rank)
    return kind.from_tensors(tensors, empty.scale)


def act(layer, strengths):
    """Strengths in one layer, as `set_strengths` puts them there."""
    for level in levels(layer):
        for name in strengths.keys() & level.r.keys():
            level.scaling[name] = strengths[name] * trained_scale(level, name)
    activate(layer, [name for name, value in strengths.items() if value])


def make(name):
    build, size = LAYERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(), torch.randn(size).double()


@torch.no_grad()
def assert_sum(layer, plain, updates, strengths, x):
    """The layer answers as the plain one does with strength * change of each in its weight."""
    expected = type(plain).__new__(type(plain))
    expected.__dict__.update(plain.__dict__, _parameters=dict(plain._parameters))
    weight = plain.weight
    changes = (value * updates[name].delta(plain.weight) for name, value in strengths.items())
    expected._parameters["weight"] = nn.Parameter(weight + sum(changes))
    torch.testing.assert_close(layer(x), expected(x), rtol=1e-9, atol=1e-9)
    if any(strengths.values()):
        assert (layer(x) - plain(x)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("kinds", "name"), CASES, ids=[f"{a.__name__}-{b.__name__}-{n}" for (a, b), n in CASES]
)
def test_two_in_either_order_add_up_and_either_can_leave(kinds, name):
    for order in ((0, 1), (1, 0)):
        plain, x = make(name)
        updates = {f"a{i}": trained(kinds[i], plain, i + 1) for i in order}
        layer = plain
        for adapter, update in updates.items():
            layer = wrap(layer, adapter, update)
        layer.double()
        exact = {a: read(level, a) for level in levels(layer) for a in level.r}
        for one, other in ((1.0, 1.0), (0.5, 1.0), (1.0, -0.7), (1.0, 0.0), (0.0, 0.0)):
            strengths = {"a0": one, "a1": other}
            act(layer, strengths)
            assert_sum(layer, plain, exact, strengths, x)
            found = {a: strength(level, a) for level in levels(layer) for a in level.r}
            assert found == pytest.approx(strengths)
        activate(layer, [])
        kept = [level for level in levels(layer) if "a0" not in level.r or not unwrap(level, "a0")]
        kept[-1].base_layer = plain
        act(kept[0], {"a1": 1.0})
        assert_sum(kept[0], plain, exact, {"a1": 1.0}, x)


def test_all_methods_at_once_in_many_orders():
    for order in [*permutations(range(len(KINDS)))][::9]:
        plain, x = make("linear")
        layer = plain
        for i in order:
            layer = wrap(layer, f"a{i}", trained(KINDS[i], plain, i))
        layer.double()
        exact = {a: read(level, a) for level in levels(layer) for a in level.r}
        strengths = {f"a{i}": 1.0 - 0.2 * i for i in range(len(KINDS))}
        act(layer, strengths)
        assert_sum(layer, plain, exact, strengths, x)
