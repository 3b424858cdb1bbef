import dataclasses
import os

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from safetensors.torch import load_file

from blockwise_lora.adapters import AdapterSpec, attached_names
from blockwise_lora.diffusion.config import (
    EfficiencyConfig,
    OptimizerConfig,
    TrainingConfig,
    ValidationConfig,
)
from blockwise_lora.diffusion.efficiency import efficient, offloaded
from blockwise_lora.diffusion.looks import Watching
from blockwise_lora.diffusion.optimizers import OptimizerError
from blockwise_lora.diffusion.trainer import Job, train, train_many

OFF = EfficiencyConfig()


def state(base):
    """What the switches change, all of it."""
    backends = torch.backends
    return {
        "gradient_checkpointing": base.unet.is_gradient_checkpointing,
        "channels_last": base.unet.mid_block.resnets[0].conv1.weight.is_contiguous(
            memory_format=torch.channels_last
        ),
        "tf32": (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32) == (True, True),
        "deterministic": torch.are_deterministic_algorithms_enabled()
        and "CUBLAS_WORKSPACE_CONFIG" in os.environ
        and not backends.cudnn.benchmark,
    }


@pytest.mark.parametrize(
    "name", ["gradient_checkpointing", "channels_last", "tf32", "deterministic"]
)
def test_a_switch_holds_inside_and_nothing_stays(base, name, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = state(base)
    assert not before[name]
    with efficient(base, [OFF, dataclasses.replace(OFF, **{name: True})]):
        assert state(base) == before | {name: True}
    assert state(base) == before
    with pytest.raises(KeyError), efficient(base, [dataclasses.replace(OFF, **{name: True})]):
        raise KeyError
    assert state(base) == before


def test_channels_last_changes_the_layout_only(base, images):
    config = TrainingConfig(steps=2, batch_size=2)
    other = dataclasses.replace(config, efficiency=EfficiencyConfig(channels_last=True))
    first = train(base, images, AdapterSpec(rank=2), config, name="a").losses
    second = train(base, images, AdapterSpec(rank=2), other, name="b").losses
    assert second == pytest.approx(first, rel=1e-4)


def test_what_is_encoded_already_is_moved_out_of_the_way_and_back(base, monkeypatch):
    moves = []
    for name in ("text_encoder", "vae", "unet"):
        monkeypatch.setattr(
            getattr(base, name), "to", lambda place, name=name: moves.append((name, str(place)))
        )
    with offloaded(base, wanted=False):
        assert moves == []
    elsewhere = dataclasses.replace(base, device=torch.device("meta"))
    with offloaded(elsewhere, wanted=True):
        assert moves == [("text_encoder", "cpu"), ("vae", "cpu")]
    assert moves[2:] == [("text_encoder", "meta"), ("vae", "meta")]


def test_looks_bring_back_what_was_moved_out_of_the_way(base, images, monkeypatch):
    moves = []
    for name in ("text_encoder", "vae"):
        monkeypatch.setattr(
            getattr(base, name), "to", lambda place, name=name: moves.append((name, str(place)))
        )
    config = TrainingConfig(
        steps=2,
        batch_size=2,
        efficiency=EfficiencyConfig(offload=True),
        validation=ValidationConfig(every=2, prompts=("a",), sampling_steps=1, guidance_scale=1.0),
    )
    seen = []
    watching = Watching(on_look=lambda name, look: seen.append(len(moves)))
    elsewhere = dataclasses.replace(base, device=torch.device("cpu:0"))
    train(elsewhere, images, AdapterSpec("out3", rank=2), config, name="a", watching=watching)
    parts = ["text_encoder", "vae"]
    away, here = ([(part, place) for part in parts] for place in ("cpu", "cpu:0"))
    assert moves == [*away, *here, *away, *here] and seen == [4]


def test_looks_bring_back_what_another_of_the_pass_has_moved(base, images, monkeypatch):
    places = {"text_encoder": "", "vae": ""}
    for name in places:
        monkeypatch.setattr(
            getattr(base, name), "to", lambda place, name=name: places.update({name: str(place)})
        )
    seen = []
    watching = Watching(on_look=lambda name, look: seen.append(dict(places)))
    looks = ValidationConfig(every=1, prompts=("a",), sampling_steps=1, guidance_scale=1.0)
    watched = TrainingConfig(steps=1, batch_size=2, validation=looks)
    other = TrainingConfig(steps=1, batch_size=2, efficiency=EfficiencyConfig(offload=True))
    elsewhere = dataclasses.replace(base, device=torch.device("cpu:0"))
    spec = AdapterSpec("out3", rank=2)
    jobs = [Job("a", images, spec, watched), Job("b", images, spec, other)]
    train_many(elsewhere, jobs, watching=watching)
    assert seen == [dict.fromkeys(places, "cpu:0")]


def test_attention_is_torchs_own_fused_one(base):
    processors = set(map(type, base.unet.attn_processors.values()))
    assert processors == {AttnProcessor2_0}


def test_up_factors_learn_faster_by_the_ratio_of_lora_plus(base, images):
    """Adam's first step is as long as its rate, wherever there is a gradient: B starts at zero."""
    ups = []
    for ratio in (1.0, 4.0):
        optimizer = OptimizerConfig(lora_plus_ratio=ratio, max_grad_norm=None)
        config = TrainingConfig(steps=1, learning_rate=1e-3, optimizer=optimizer)
        name = f"r{int(ratio)}"
        train(base, images, AdapterSpec("out3", rank=2), config, name=name)
        layer = base.unet.up_blocks[3].attentions[0].proj_in
        ups.append(layer.lora_B[name].weight.abs().max().item())
    assert ups == pytest.approx([1e-3, 4e-3], rel=1e-2)


def test_methods_without_up_factors_have_no_ratio(base, images):
    config = TrainingConfig(steps=1, optimizer=OptimizerConfig(lora_plus_ratio=4.0))
    with pytest.raises(OptimizerError, match="loha has no up factors"):
        train(base, images, AdapterSpec(method="loha", rank=2), config)
    assert attached_names(base.unet) == ()


class KilledError(Exception):
    """Stands for a kill: raised between two steps."""


def test_adafactor_sees_rows_and_columns(base, images, tmp_path):
    def kill(step):
        if step == 2:
            raise KilledError

    config = TrainingConfig(steps=4, checkpoint_every=1, optimizer=OptimizerConfig("adafactor"))
    spec = AdapterSpec("out3", rank=2)
    with pytest.raises(KilledError):
        train(base, images, spec, config, checkpoint_dir=tmp_path, on_step=kill)
    (file,) = tmp_path.iterdir()
    assert any("exp_avg_sq_row" in name for name in load_file(file))
    whole = train(base, images, spec, config, name="whole")
    resumed = train(base, images, spec, config, name="resumed", checkpoint_dir=tmp_path)
    assert resumed.resumed_from == 2 and resumed.losses == whole.losses


def test_without_the_switch_convolutions_do_not_round_either(base, monkeypatch):
    """cuDNN rounds to TF32 unless it is told not to."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with efficient(base, [OFF]):
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32
