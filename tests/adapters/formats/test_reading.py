import json
import os
import struct

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from adapter_effects import assert_same
from blockwise_lora.adapters import AdapterError, Dora, Hadamard, Kronecker, LowRank
from blockwise_lora.adapters.formats import Names, read, read_source, write

N = 131072
FORMATS = ["diffusers", "peft", "kohya", "lycoris"]


def place(folder, format):
    return folder / (f"{format}.safetensors" if format != "peft" else "peft")


@pytest.fixture
def file(sd_unet, make_adapter, tmp_path):
    return write(make_adapter(sd_unet, every=9), tmp_path / "a.safetensors", "lycoris")


@pytest.mark.parametrize("format", FORMATS)
def test_the_format_is_told_by_the_content(format, sd_unet, make_adapter, tmp_path):
    adapter = make_adapter(sd_unet, every=9)
    path = write(adapter, place(tmp_path, format), format)
    assert read_source(path).format == format
    if format != "peft":
        path = path.rename(tmp_path / "anything.bin")
        assert read_source(path).format == format
    assert dict(read(path).sub_blocks) == dict(adapter.sub_blocks)


def test_lycoris_files_are_told_by_their_tensors(sd_unet, make_adapter, tmp_path):
    for kind in (LowRank, Dora, Hadamard, Kronecker):
        path = write(
            make_adapter(sd_unet, kind, every=9),
            tmp_path / kind.__name__ / "a.safetensors",
            "lycoris",
        )
        save_file(load_file(path), path)  # without the name of the module that wrote it
        assert read_source(path).format == ("kohya" if kind is LowRank else "lycoris")


def test_the_oldest_names_of_lycoris_wrapper(file, sd_unet):
    """Its wrapper for any model names layers `lycoris_...`."""
    expected = read(file).updates
    state = {k.replace("lora_unet_", "lycoris_"): t for k, t in load_file(file).items()}
    save_file(state, file)
    assert_same(read(file).updates, expected)


def test_sdxl_files_with_diffusers_names_are_read(xl_unet, make_adapter, tmp_path):
    adapter = make_adapter(xl_unet, alphas=(2.0,))
    path = write(adapter, tmp_path / "a.safetensors", "kohya")
    names = Names.of(xl_unet)
    state = {}
    for key, tensor in load_file(path).items():
        joined, _, rest = key.partition(".")
        state[f"lora_unet_{names.layers[joined].replace('.', '_')}.{rest}"] = tensor
    save_file(state, path)
    assert_same(read(path).updates, adapter.updates)
    assert read(path).metadata["blockwise_lora.family"] == "sdxl"


def test_models_of_other_structures_are_named(make_adapter, tmp_path):
    """Five levels: no Stable Diffusion has them, so the model is to be named."""
    unet = UNet2DConditionModel(
        block_out_channels=(8,) * 5,
        down_block_types=("CrossAttnDownBlock2D",) * 5,
        up_block_types=("CrossAttnUpBlock2D",) * 5,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=8,
    )
    names = Names.of(unet)
    adapter = make_adapter(unet, alphas=(2.0,))
    path = write(adapter, tmp_path / "a.safetensors", "kohya", names=names)
    with pytest.raises(AdapterError, match=r"not known here.*Name the base model"):
        read(path)
    assert_same(read(path, names).updates, adapter.updates)


def test_an_adapter_for_another_model_is_refused(file, xl_unet):
    with pytest.raises(AdapterError, match=r"another structure.*has no layer lora_unet_"):
        read(file, Names.of(xl_unet))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (save({}), "holds no tensors"),
        (save({"lora_transformer_x.alpha": torch.ones(1)}), "it is for a transformer"),
        (save({"diffusion_model.x.lora_A.weight": torch.ones(1)}), "it is for a transformer"),
        (save({"model.diffusion_model.x": torch.ones(1)}), "a whole model, not an adapter"),
        (save({"nonsense": torch.ones(1)}), "tensor nonsense belongs to no method"),
        (
            save({"lora_unet_mid_x.alpha": torch.ones(1), "unet.x": torch.ones(1)}),
            r"in kohya's format, but tensor unet\.x is not",
        ),
    ],
)
def test_what_is_no_adapter_is_named(content, message, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.diffusion_model.x", "a whole model, not an adapter"),
        ("down_blocks.0.conv.weight", r"down_blocks\.0\.conv\.weight belongs to no method"),
    ],
)
def test_whole_models_are_refused_unread(name, message, tmp_path):
    """By the header alone: a tebibyte fits no memory."""
    path, size = tmp_path / "a.safetensors", 1 << 40
    entry = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
    header = json.dumps({name: entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    os.truncate(path, 8 + len(header) + size)
    with pytest.raises(AdapterError, match=message):
        read(path)


def test_pickles_are_refused_unopened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save(Bomb(), tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match="is a pickle"):
        read(tmp_path / "a.safetensors")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_truncated_files_are_refused(kept, file):
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(AdapterError, match="cut short or damaged"):
        read(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t * float("nan"), "is not finite"),
        (lambda t: t.double(), "is of type float64"),
        (lambda t: t[:, :1].contiguous(), "do not fit each other"),
        (lambda t: t.flatten(), "do not fit each other"),
        (lambda t: t[:0], "is empty"),
    ],
)
def test_damaged_tensors_are_refused(change, message, file):
    state = load_file(file)
    key = next(key for key in state if key.endswith("lora_up.weight"))
    other = {k: t for k, t in state.items() if k != key}
    save_file(other | {key: change(state[key])}, file)
    with pytest.raises(AdapterError, match=message):
        read(file)
    save_file(other, file)
    with pytest.raises(AdapterError, match=r"'lora_B\.weight' is missing"):
        read(file)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_alphas_of_no_usable_type_are_refused(kind, file):
    state = load_file(file)
    key = next(key for key in state if key.endswith(".alpha"))
    save_file(state | {key: torch.ones(()).to(kind)}, file)
    with pytest.raises(AdapterError, match=rf"alpha is of type {str(kind)[6:]}"):
        read(file)
    save_file(state | {key: torch.tensor(3)}, file)  # as LyCORIS stores a whole number
    read(file)


@pytest.mark.parametrize(
    "factors",
    [
        {"lokr_w1_a": (N, 1), "lokr_w1_b": (1, N), "lokr_w2": (1, 1)},
        {"lokr_w1": (1, 1), "lokr_w2_a": (N, 1), "lokr_w2_b": (1, N)},
        {"hada_w1_a": (N, 1), "hada_w1_b": (1, N), "hada_w2_a": (N, 1), "hada_w2_b": (1, N)},
        {"lora_down.weight": (N, 1), "lora_up.weight": (1, N)},
        {"lora_down.weight": (1, N), "lora_up.weight": (N, 1)},
        {
            "lora_down.weight": (1, N, 1, 1),
            "lora_mid.weight": (N, 1, 1, 1),
            "lora_up.weight": (1, N, 1, 1),
        },
        {"diff": (N, 1)},
    ],
    ids=lambda factors: "-".join(factors),
)
def test_small_tensors_of_huge_products_are_refused(factors, tmp_path):
    """64 GiB would be worked out: on reading, or for the norms that `inspect` tells."""
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_k"
    state = {f"{layer}.{name}": torch.ones(shape) for name, shape in factors.items()}
    alpha = {} if "diff" in factors else {f"{layer}.alpha": torch.ones(())}
    save_file(state | alpha, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=rf"product of ({N}.*){{2}}no layer is as large"):
        read(tmp_path / "a.safetensors")


def test_one_layer_under_two_names_is_refused(file):
    state = load_file(file)
    layer = next(k for k in state if "up_blocks_1_resnets_0" in k or "mid_block" in k).partition(
        "."
    )[0]
    twin = {
        k.replace(layer, layer.replace("lora_unet_", "lycoris_")): t.clone()
        for k, t in state.items()
        if k.startswith(layer)
    }
    save_file(state | twin, file)
    with pytest.raises(AdapterError, match="is there twice, under two names"):
        read(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AdapterError, match=r"nowhere\.safetensors does not exist"):
        read(tmp_path / "nowhere.safetensors")
    with pytest.raises(AdapterError, match=r"pytorch_lora_weights\.safetensors does not exist"):
        read(tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Bytes of a small file of each kind, metadata and all."""
    down, up = torch.ones(2, 4), torch.ones(4, 2)
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
    config = {"unet.r": 2, "unet.lora_alpha": 1, "unet.rank_pattern": {}, "unet.alpha_pattern": {}}
    diffusers = save(
        {f"unet.{layer}.lora_A.weight": down, f"unet.{layer}.lora_B.weight": up},
        {"lora_adapter_metadata": json.dumps(config)},
    )
    joined = "lora_unet_" + layer.replace(".", "_")
    factors = {
        f"{joined}.hada_w{i}_{x}": t for i in (1, 2) for x, t in (("a", up), ("b", down.clone()))
    }
    factors = {key: tensor.clone() for key, tensor in factors.items()}
    lycoris = save(factors | {f"{joined}.alpha": torch.tensor(1.0)}, {"ss_network_dim": "2"})
    return diffusers, lycoris, tmp_path_factory.mktemp("mutated") / "a.safetensors"


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_the_bytes_it_is_read_or_refused_in_words(data, small):
    """Bytes changed, mostly in the header: never another exception, never a hang."""
    *originals, path = small
    original = data.draw(st.sampled_from(originals))
    (header,) = struct.unpack("<Q", original[:8])
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        top = data.draw(st.sampled_from([8 + header, len(mutated)]))
        position = data.draw(st.integers(0, top - 1))
        mutated[position] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(mutated))
    try:
        adapter = read(path)
    except AdapterError as error:
        assert str(path) in str(error)
    else:
        assert adapter.updates
