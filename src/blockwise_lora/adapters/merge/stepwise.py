"""Applying a merge that depends on the denoising step."""

from blockwise_lora.adapters.layers import activate, holds, tuner_layers
from blockwise_lora.adapters.merge.results import Stepwise
from blockwise_lora.adapters.parts import Model


def choose_adapter(
    model: Model, names: tuple[str, str], merged: Stepwise, step: int, steps: int
) -> None:
    """Let the adapter act in each layer that the merge chooses for a step.

    With its first three arguments bound it is a hook for `blockwise_lora.diffusion.sampling`.
    Layers that one adapter alone touches keep it. Strengths stay as `set_strengths` set them.

    Args:
        model: with both adapters attached.
        names: theirs, in the merge's order.
        merged: the merge.
        step: from 0.
        steps: how many there are.
    """
    chosen = merged.chosen(step, steps)
    for key, layer in tuner_layers(model):
        here = [name for name in names if holds(layer, name)]
        activate(layer, [names[chosen[key]]] if key in chosen else here)
