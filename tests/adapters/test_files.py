import json
import os
import stat

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from blockwise_lora.adapters import (
    AdapterError,
    AdapterSpec,
    attach,
    attached_names,
    detach,
    load_adapter,
    read_adapter,
    save_adapter,
    set_strengths,
    trainable_parameters,
)
from blockwise_lora.adapters.files import SINGLE_FILE, WEIGHTS_FILE
from blockwise_lora.atomic import WriteError

SPECS = [
    AdapterSpec(),
    AdapterSpec("out1-out3", rank=4, alpha=1),
    AdapterSpec("all+in0:0+out1:16", "locon", rank=8, alpha=3, conv_rank=5, conv_alpha=2),
    AdapterSpec("style", "locon", rank=6),
]


def metadata(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.fixture
def saved(tiny_unet, trained, tmp_path):
    """A saved adapter's folder."""
    spec = SPECS[2]
    trained(tiny_unet, spec, "a")
    save_adapter(tmp_path / "saved", tiny_unet, "a", spec=spec, metadata={"seed": "3"})
    return tmp_path / "saved"


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method}-{spec.blocks}")
def test_loading_back_is_bit_exact(make_unet, trained, output, tmp_path, spec):
    unet, other = make_unet(), make_unet()
    attached = trained(unet, spec, "character")
    path = save_adapter(tmp_path, unet, "character", spec=spec)
    adapter = read_adapter(path)
    again = load_adapter(other, adapter, "anything")
    assert (again.ranks, again.blocks, again.empty_blocks, again.spec) == (
        attached.ranks,
        attached.blocks,
        attached.empty_blocks,
        spec,
    )
    pairs = zip(
        trainable_parameters(unet, "character"),
        trainable_parameters(other, "anything"),
        strict=True,
    )
    assert all(torch.equal(one, two) for one, two in pairs)
    assert torch.equal(output(unet), output(other))


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method}-{spec.blocks}")
def test_diffusers_loads_both_files(make_unet, trained, output, tmp_path, spec):
    """The folder bit for bit, the single file to 1e-6; judged by the U-Net's output."""
    unet = make_unet()
    base = output(unet)
    trained(unet, spec, "a")
    save_adapter(tmp_path, unet, "a", spec=spec)
    expected = output(unet)

    def through_diffusers(name: str) -> torch.Tensor:
        loaded = make_unet()
        state, alphas, config = StableDiffusionPipeline.lora_state_dict(
            tmp_path, weight_name=name, unet_config=loaded.config, return_lora_metadata=True
        )
        StableDiffusionPipeline.load_lora_into_unet(
            state, alphas, loaded, adapter_name="x", metadata=config
        )
        return output(loaded)

    assert torch.equal(through_diffusers(WEIGHTS_FILE), expected)
    difference = through_diffusers(SINGLE_FILE) - expected
    assert difference.norm() / expected.norm() < 1e-6
    assert difference.norm() / (expected - base).norm() < 1e-5


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.method}-{spec.blocks}")
def test_the_single_file_by_kohyas_formula(make_unet, trained, output, tmp_path, spec):
    """W + alpha / rank * up @ down for every lora_unet_ name: written anew, file in hand."""
    unet, merged = make_unet(), make_unet()
    trained(unet, spec, "a")
    save_adapter(tmp_path, unet, "a", spec=spec)
    file = load_file(tmp_path / SINGLE_FILE)
    names = {"lora_unet_" + n.replace(".", "_"): n for n, _ in merged.named_modules() if n}
    used = set()
    with torch.no_grad():
        for key in file:
            if not key.endswith(".alpha"):
                continue
            lora = key.removesuffix(".alpha")
            down, up = file[f"{lora}.lora_down.weight"], file[f"{lora}.lora_up.weight"]
            scale = file[key].item() / down.shape[0]
            module = merged.get_submodule(names[lora])
            if down.dim() == 2:
                module.weight += scale * (up @ down)
            else:
                update = torch.nn.functional.conv2d(down.permute(1, 0, 2, 3), up).permute(
                    1, 0, 2, 3
                )
                module.weight += scale * update
            used |= {key, f"{lora}.lora_down.weight", f"{lora}.lora_up.weight"}
    assert used == set(file)
    assert len({file[key].item() for key in file if key.endswith(".alpha")}) == 1
    assert (output(merged) - output(unet)).norm() / output(unet).norm() < 1e-6


def test_the_pipelines_own_loader(tiny_unet, saved, output, make_unet):
    """`load_lora_weights(folder)`, the call in every tutorial."""
    pipe = StableDiffusionPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=make_unet(),
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.load_lora_weights(saved)
    assert torch.equal(output(pipe.unet), output(tiny_unet))


def test_metadata_say_what_the_file_holds(saved):
    for name in (WEIGHTS_FILE, SINGLE_FILE):
        found = metadata(saved / name)
        assert found["seed"] == "3"
        assert AdapterSpec.from_json(found["blockwise_lora.spec"]) == SPECS[2]
        assert found["blockwise_lora.mask"] == "all+in0:0+out1:16"
        blocks = json.loads(found["blockwise_lora.blocks"])
        assert blocks["IN04"]["ranks"] == [5, 8]
        assert blocks["OUT03"] == {
            "ranks": [16],
            "modules": ["up_blocks.1.resnets.0", "up_blocks.1.attentions.0"],
        }
        assert "IN01" not in blocks
    config = json.loads(metadata(saved / WEIGHTS_FILE)["lora_adapter_metadata"])
    modules = {key.split(".lora_")[0] for key in load_file(saved / WEIGHTS_FILE)}
    # Full names: not the shortened ones that PEFT keeps in the model.
    assert {f"unet.{name}" for name in config["unet.target_modules"]} == modules
    kohya = metadata(saved / SINGLE_FILE)
    assert kohya["ss_network_module"] == "networks.lora"
    assert kohya["ss_network_dim"] == "Dynamic"


def test_equal_adapters_make_equal_bytes(make_unet, trained, tmp_path):
    spec = SPECS[2]
    for folder in ("one", "two"):
        unet = make_unet()
        attach(unet, AdapterSpec("mid"), folder, torch.Generator())  # company changes nothing
        trained(unet, spec, "a")
        notes = {"b": "2", "a": "1"} if folder == "one" else {"a": "1", "b": "2"}
        save_adapter(tmp_path / folder, unet, "a", spec=spec, metadata=notes)
    for name in (WEIGHTS_FILE, SINGLE_FILE):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two
    assert read_adapter(tmp_path / "one").sha256 == read_adapter(tmp_path / "two").sha256


def test_strengths_do_not_enter_the_file(tiny_unet, trained, tmp_path):
    trained(tiny_unet, SPECS[1], "a")
    save_adapter(tmp_path / "one", tiny_unet, "a", spec=SPECS[1])
    set_strengths(tiny_unet, {"a": {"out1": 0.3}})
    save_adapter(tmp_path / "two", tiny_unet, "a", spec=SPECS[1])
    assert read_adapter(tmp_path / "one").sha256 == read_adapter(tmp_path / "two").sha256


def test_files_are_readable_as_the_umask_allows(saved):
    umask = os.umask(0)
    os.umask(umask)
    for name in (WEIGHTS_FILE, SINGLE_FILE):
        assert stat.S_IMODE((saved / name).stat().st_mode) == 0o666 & ~umask


def test_an_adapter_can_be_loaded_beside_others(make_unet, saved, trained, output):
    unet = make_unet()
    trained(unet, AdapterSpec("in0-mid", "locon", 2), "other")
    adapter = read_adapter(saved)
    load_adapter(unet, adapter, "a")
    alone = make_unet()
    load_adapter(alone, adapter, "a")
    assert torch.equal(output(unet), output(alone))
    state = {f"{m}.lora_A.weight" for m in adapter.updates} & adapter.state.keys()
    assert len(state) == len(adapter.updates)


def test_diverged_weights_are_not_written(tiny_unet, tmp_path):
    attach(tiny_unet, AdapterSpec("mid"), "a", torch.Generator())
    with torch.no_grad():
        trainable_parameters(tiny_unet, "a")[3][0, 0] = float("inf")
    with pytest.raises(AdapterError, match=r"not finite in mid_block.*learning rate"):
        save_adapter(tmp_path, tiny_unet, "a", spec=AdapterSpec("mid"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["format", "lora_adapter_metadata", "ss_seed"])
def test_reserved_metadata_is_refused(tiny_unet, tmp_path, key):
    attach(tiny_unet, AdapterSpec("mid"), "a", torch.Generator())
    with pytest.raises(AdapterError, match=f"{key}.*reserved"):
        save_adapter(tmp_path, tiny_unet, "a", spec=AdapterSpec("mid"), metadata={key: ""})


def test_saving_what_is_not_there(tiny_unet, tmp_path):
    with pytest.raises(AdapterError, match="no adapter 'a' in this U-Net"):
        save_adapter(tmp_path, tiny_unet, "a", spec=AdapterSpec())


def test_an_unwritable_target_is_named(tiny_unet, tmp_path):
    attach(tiny_unet, AdapterSpec("mid"), "a", torch.Generator())
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="file"):
        save_adapter(tmp_path / "file", tiny_unet, "a", spec=AdapterSpec("mid"))


def test_another_structure_is_refused_and_the_unet_untouched(saved, make_unet):
    adapter = read_adapter(saved)
    wider = make_unet(block_out_channels=(32, 32, 64, 128))
    modules = [name for name, _ in wider.named_modules()]
    with pytest.raises(AdapterError, match=r"another structure.*of another size.* more\. Load it"):
        load_adapter(wider, adapter, "a")
    shorter = make_unet(
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    with pytest.raises(AdapterError, match=r"\.proj_in is missing.* and \d+ more"):
        load_adapter(shorter, adapter, "a")
    assert [name for name, _ in wider.named_modules()] == modules
    assert attached_names(wider) == ()


def test_a_taken_name_is_refused_on_loading(tiny_unet, saved):
    with pytest.raises(AdapterError, match="'a' is taken"):
        load_adapter(tiny_unet, read_adapter(saved), "a")
    detach(tiny_unet, "a")
    load_adapter(tiny_unet, read_adapter(saved), "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page, not weights"),
        (b"\n <html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"GGUF\x03\x00\x00\x00 and so on", "is not a safetensors file"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, content, message):
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(content)
    with pytest.raises(AdapterError, match=message) as error:
        read_adapter(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_are_refused_unopened(tmp_path, zipped):
    path = tmp_path / "adapter.pt"

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save(Bomb(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(AdapterError, match=r"adapter\.pt is a pickle.*convert it to safetensors"):
        read_adapter(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.999])
def test_truncated_files_are_refused(saved, kept):
    path = saved / WEIGHTS_FILE
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(AdapterError, match="cut short or damaged: fetch it again"):
        read_adapter(saved)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(AdapterError, match="does not exist"):
        read_adapter(tmp_path / "nowhere" / WEIGHTS_FILE)
    with pytest.raises(AdapterError, match=f"{WEIGHTS_FILE} does not exist"):
        read_adapter(tmp_path)


def test_the_single_file_and_files_of_other_tools_are_read_too(saved, tmp_path):
    own, single = read_adapter(saved), read_adapter(saved / SINGLE_FILE)
    assert single.spec == own.spec
    assert dict(single.sub_blocks) == dict(own.sub_blocks)
    foreign = tmp_path / "foreign.safetensors"
    save_file(load_file(saved / WEIGHTS_FILE), foreign)
    assert read_adapter(foreign).spec is None


def test_tampered_files_are_refused(saved, tmp_path):
    tensors, notes = load_file(saved / WEIGHTS_FILE), metadata(saved / WEIGHTS_FILE)
    path = tmp_path / "changed.safetensors"
    first = next(key for key in tensors if key.endswith("lora_A.weight"))
    for changed in (
        {key: t for key, t in tensors.items() if key != first},
        tensors | {"text_encoder.x": torch.ones(1)},
        tensors | {first: tensors[first][:0]},
        tensors | {first: tensors[first][:-1].contiguous()},
    ):
        save_file(changed, path, notes)
        with pytest.raises(AdapterError, match=r"changed\.safetensors"):
            read_adapter(path)
    for key, value in [
        ("blockwise_lora.spec", "{}x"),
        ("blockwise_lora.spec", '{"rank": "many"}'),
        ("blockwise_lora.blocks", "{}"),
        ("lora_adapter_metadata", "[]"),
        ("lora_adapter_metadata", '{"unet.lora_alpha": NaN, "unet.alpha_pattern": {}}'),
    ]:
        save_file(tensors, path, notes | {key: value})
        with pytest.raises(AdapterError, match=r"damaged|lacks"):
            read_adapter(path)
