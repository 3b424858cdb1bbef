import json
import shutil
from typing import get_args

import pytest
import torch
from click.testing import CliRunner
from diffusers import StableDiffusionPipeline

from blockwise_lora.adapters import (
    AdapterSpec,
    attach,
    detach,
    formats,
    save_adapter,
    trainable_parameters,
)
from blockwise_lora.commands.adapter import adapter as command
from blockwise_lora.commands.adapter_merge import FORMATS
from blockwise_lora.diffusion.base import load_base
from tiny_base import write_tiny_pictures


@pytest.fixture
def two(loaded_tiny_base, tmp_path):
    """The folders of two adapters of different masks, methods and ranks."""
    unet, folders = loaded_tiny_base.unet, []
    specs = AdapterSpec("in0-mid", "locon", rank=3), AdapterSpec("mid-out1", rank=2, alpha=6)
    for seed, spec in enumerate(specs):
        generator = torch.Generator().manual_seed(seed)
        attach(unet, spec, "a", generator)
        with torch.no_grad():
            for parameter in trainable_parameters(unet, "a"):
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        folders.append(str(tmp_path / f"adapter{seed}"))
        save_adapter(folders[-1], unet, "a", spec=spec)
        detach(unet, "a")
    return folders


def run(*words):
    return CliRunner().invoke(command, ["merge", *map(str, words)])


def deltas(path):
    return {module: update.delta() for module, update in formats.read(path).updates.items()}


def test_the_sum_is_the_sum(two, tmp_path):
    result = run(*two, "--weights", "1,0.5", "--out", tmp_path / "merged")
    assert result.exit_code == 0, result.output
    assert "sum of adapter0, adapter1: an adapter, ranks 2 to 5" in result.output
    assert "exact: nothing had to be cut" in result.output
    merged, one, other = (deltas(path) for path in (tmp_path / "merged", *two))
    assert set(merged) == set(one) | set(other)
    for module, delta in merged.items():
        expected = one.get(module, 0) + 0.5 * other.get(module, 0)
        assert torch.allclose(delta, expected, rtol=1e-5, atol=1e-7)
    record = json.loads(formats.read(tmp_path / "merged").metadata["blockwise_lora.merge"])
    assert [parent["mask"] for parent in record["adapters"]] == ["in0-mid", "mid-out1"]
    assert [parent["sha256"] for parent in record["adapters"]] == [
        formats.read(path).sha256 for path in two
    ]


def test_names_are_recorded_and_lead_options(two, tmp_path, tiny_base_folder):
    out, base = tmp_path / "merged", ("--base", tiny_base_folder / "unet" / "config.json")
    named = ("--names", "cat,comic", "--weights", "comic=0.5")
    masks = ("--rule", "pick", "--blocks", "comic=mid-out1,cat=in0-in2")
    result = run(*two, *named, *masks, *base, "--out", out)
    assert result.exit_code == 0, result.output
    assert "pick of cat, comic: an adapter" in result.output
    record = json.loads(formats.read(out).metadata["blockwise_lora.merge"])
    assert [parent["name"] for parent in record["adapters"]] == ["cat", "comic"]
    assert record["parameters"]["blocks"] == ["in0-in2", "mid-out1"]
    merged, (one, other) = deltas(out), (deltas(path) for path in two)
    for module, delta in merged.items():
        down = module.startswith("down_blocks")
        expected = one[module] if down else 0.5 * other[module]
        assert torch.allclose(delta, expected, rtol=1e-5, atol=1e-7)


def test_svd_tells_what_it_cost_and_equal_merges_are_equal_files(two, tmp_path):
    outs = [tmp_path / name for name in ("one", "two")]
    for out in outs:
        result = run(*two, "--rule", "svd", "--rank", 2, "--out", out)
        assert result.exit_code == 0, result.output
        assert "svd of adapter0, adapter1: an adapter, rank 2" in result.output
        assert "relative error 0." in result.output
    assert formats.read(outs[0]).sha256 == formats.read(outs[1]).sha256


@pytest.mark.parametrize("to", ["peft", "kohya", "lycoris"])
def test_formats(two, tmp_path, to):
    out = tmp_path / ("merged" if to == "peft" else "merged.safetensors")
    assert run(*two, "--out", tmp_path / "plain").exit_code == 0
    result = run(*two, "--out", out, "--to", to)
    assert result.exit_code == 0, result.output
    plain = deltas(tmp_path / "plain")
    for module, delta in deltas(out).items():
        assert torch.allclose(delta, plain[module], rtol=1e-5, atol=1e-7)


def test_pick_reads_no_weights_of_the_base(two, tmp_path, tiny_base_folder):
    config = tiny_base_folder / "unet" / "config.json"
    out = tmp_path / "merged"
    words = ("--rule", "pick", "--blocks", "in0-in2,mid-out1")
    assert "needs the base model" in run(*two, *words, "--out", out).output
    result = run(*two, *words, "--base", config, "--out", out)
    assert result.exit_code == 0, result.output
    one, other, merged = (deltas(path) for path in (*two, out))
    assert {m.split(".")[0] for m in merged} == {"down_blocks", "mid_block", "up_blocks"}
    for module, delta in merged.items():
        source = one if module.startswith("down_blocks") else other
        assert torch.allclose(delta, source[module], rtol=1e-5, atol=1e-7)


def test_a_baked_model_is_one_that_diffusers_loads(two, tmp_path, tiny_base_folder, recwarn):
    out, source = tmp_path / "model", shutil.copytree(tiny_base_folder, tmp_path / "base")
    file = source / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in config.items() if k != "clip_sample"}))
    recwarn.clear()
    result = run(*two, "--bake", "--base", source, "--out", out)
    assert result.exit_code == 0, result.output
    assert not [w for w in recwarn if "clip_sample" in str(w.message)], "nothing is to be mended"
    assert "a baked base model" in result.output
    assert json.loads((out / "blockwise_lora.json").read_text())["rule"] == "sum"
    pipeline = StableDiffusionPipeline.from_pretrained(out)
    base, merged = load_base(tiny_base_folder).unet, [deltas(path) for path in two]
    for module in set(merged[0]) | set(merged[1]):
        expected = base.get_submodule(module).weight
        expected = expected + sum(one[module] for one in merged if module in one)
        found = pipeline.unet.get_submodule(module).weight
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6)
    same = "conv_in"
    assert torch.equal(pipeline.unet.get_submodule(same).weight, base.conv_in.weight)
    assert run(*two, "--bake", "--base", tiny_base_folder, "--out", out).exit_code == 1


def test_ties_without_a_rank_is_baked(two, tmp_path, tiny_base_folder):
    words = ("--rule", "ties", "--density", 0.3)
    assert "name one, or a rank" in run(*two, *words, "--out", tmp_path / "a").output
    done = run(*two, *words, "--base", tiny_base_folder, "--out", tmp_path / "a")
    assert "ties of adapter0, adapter1: a baked base model" in done.output, done.output
    done = run(*two, *words, "--rank", 2, "--out", tmp_path / "b")
    assert "ties of adapter0, adapter1: an adapter, rank" in done.output, done.output


def test_ziplora_learns(two, tmp_path, tiny_base_folder):
    folders = [write_tiny_pictures(tmp_path / name, 2) for name in "ab"]
    pictures = [word for folder in folders for word in ("--pictures", folder)]
    words = ("--rule", "ziplora", "--steps", 1, "--out", tmp_path / "merged")
    assert "needs `pictures`" in run(*two, *words).output
    result = run(*two, *words, *pictures, "--base", tiny_base_folder)
    assert result.exit_code == 0, result.output
    assert "ziplora of adapter0, adapter1: an adapter" in result.output


def test_nothing_is_overwritten(two, tmp_path):
    out = tmp_path / "merged"
    assert run(*two, "--out", out).exit_code == 0
    before = (out / "pytorch_lora_weights.safetensors").read_bytes()
    again = run(*two, "--weights", "1,3", "--out", out)
    assert again.exit_code == 1
    assert "exists: name another place" in again.output
    assert (out / "pytorch_lora_weights.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--weights", "1"), "1 for 2 adapters"),
        (("--names", "one"), "1 for 2 adapters"),
        (("--weights", "cat=1"), "no adapter is named 'cat', only adapter0, adapter1"),
        (("--weights", "1,x"), "expected numbers with commas"),
        (("--rule", "svd"), "svd.rank: missing"),
        (("--rank", 3), "sum.rank: unknown parameter"),
        (("--rule", "klora"), "combination.merge.rule=klora"),
        (("--rule", "pick", "--blocks", "in0,oot1"), "did you mean 'out1'"),
    ],
)
def test_mistakes(two, tmp_path, words, message):
    result = run(*two, *words, "--out", tmp_path / "merged")
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "merged").exists()


def test_formats_are_a_choice_and_are_those_that_can_be_written(two, tmp_path):
    result = run(*two, "--to", "ckpt", "--out", tmp_path / "merged")
    assert result.exit_code == 2
    assert "'ckpt' is not one of 'diffusers', 'peft'" in result.output
    assert set(FORMATS) == set(get_args(formats.Format))


@pytest.mark.parametrize(
    ("out", "words", "message"),
    [
        ("merged", ("--to", "kohya"), "kohya is a file: give it a name that ends in .safetensors"),
        ("merged.ckpt", ("--to", "lycoris"), "lycoris is a file"),
        ("merged.safetensors", ("--to", "peft"), "PEFT's format is a folder: leave the ending"),
        ("merged.safetensors", ("--bake",), "a baked model (--bake, or for want of --rank) is a f"),
        ("merged.safetensors", ("--rule", "ties"), "a baked model"),
    ],
)
def test_an_ending_that_does_not_fit_is_told_before_the_work(tmp_path, out, words, message):
    """Before the adapters are even read: these are not there."""
    result = run("none", "neither", "--out", tmp_path / out, *words)
    assert result.exit_code == 1
    assert message in result.output


def test_an_adapter_that_is_not_there(two, tmp_path):
    result = run(two[0], tmp_path / "none", "--out", tmp_path / "merged")
    assert result.exit_code == 1
    assert "none" in result.output
    assert "does not exist" in result.output
