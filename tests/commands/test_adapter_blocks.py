import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from blockwise_lora.cli import cli
from blockwise_lora.diffusion.single_file import TEXT_ENCODER, UNET
from hub_cache import SDXL_UNET

# Values of SD 1.5 at rank 16 by coarse block, for attention LoRA and for LoCon, as measured.
SD15 = {
    "in0": (376_832, 684_032),
    "in1": (704_512, 1_247_232),
    "in2": (1_359_872, 2_404_352),
    "in3": (0, 901_120),
    "mid": (679_936, 1_581_056),
    "out0": (0, 2_293_760),
    "out1": (2_039_808, 4_231_168),
    "out2": (1_056_768, 2_285_568),
    "out3": (565_248, 1_184_768),
}


def blocks(*arguments: str | Path, code: int = 0):
    result = CliRunner().invoke(cli, ["adapter", "blocks", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def coarse_values(text: str) -> dict[str, int]:
    rows = json.loads(text)
    sums: dict[str, int] = {}
    for row in rows:
        sums[row["coarse"]] = sums.get(row["coarse"], 0) + row["values"]
    return sums


@pytest.fixture(scope="module")
def sd15(tmp_path_factory) -> Path:
    """Stable Diffusion 1.5 in full size, its configurations alone."""
    folder = tmp_path_factory.mktemp("sd15")
    for part, config in (("unet", UNET), ("text_encoder", TEXT_ENCODER)):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(("method", "column"), [("lora", 0), ("locon", 1)])
def test_values_of_sd15_at_rank_16(sd15, method, column):
    found = coarse_values(blocks(sd15 / "unet", "--method", method, "--json").output)
    assert found == {coarse: values[column] for coarse, values in SD15.items()}
    assert sum(found.values()) == (6_782_976, 16_813_056)[column]


def test_the_table_says_it_under_every_name(sd15):
    result = blocks(sd15)
    lines = {line.split()[0]: line.split() for line in result.output.splitlines() if line.strip()}
    assert lines["in0"][1:] == ["24", "376,832"]
    assert lines["IN01"][1:] == [
        "12",
        "188,416",
        "down_blocks.0.{resnets.0,",
        "attentions.0}",
        "input_blocks.1",
        "lora_unet_down_blocks_0_{resnets_0,",
        "attentions_0}",
    ]
    assert lines["BASE"][1] == "72"
    assert lines["BASE"][3:] == ["text_encoder", "cond_stage_model", "lora_te"]
    assert "IN03, IN06, IN09, IN10, IN11, OUT00, OUT01, OUT02" in result.output
    assert "in no block, hence in no mask: conv_in, time_embedding" in result.output


def test_sdxl_from_one_configuration(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(SDXL_UNET))
    rows = json.loads(blocks(tmp_path / "config.json", "--json").output)
    millions = {k: round(v / 1e6, 2) for k, v in coarse_values(json.dumps(rows)).items()}
    assert millions == {
        "in0": 0,
        "in1": 1.49,
        "in2": 12.94,
        "mid": 6.47,
        "out0": 19.42,
        "out1": 2.24,
        "out2": 0,
    }
    by_name = {row["block"]: row for row in rows}
    assert by_name["OUT01"]["kohya"] == ["lora_unet_output_blocks_1"]
    assert by_name["OUT01"]["original"] == "output_blocks.1"
    # B-LoRA's content and style: attention of two out-blocks, and nothing else.
    chosen = json.loads(
        blocks(tmp_path / "config.json", "--mask", "content+style", "--json").output
    )
    assert [row["block"] for row in chosen if row["layers"]] == ["OUT00", "OUT01"]
    assert "BASE" not in by_name


def test_a_mask_shows_what_it_trains(tiny_base_folder):
    result = blocks(tiny_base_folder, "--mask", "NOT in0-out1", "--rank", "2", "--method", "locon")
    lines = {line.split()[0]: line.split() for line in result.output.splitlines() if line.strip()}
    assert "locon of rank 2 on all+in0-out1:0" in result.output
    assert lines["in0"][1:3] == ["-", "-"]
    assert int(lines["out2"][1]) > 0
    assert "no attention" not in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mask", "ot1"], "did you mean 'out1'"),
        (["--mask", "in3+out0"], "names only blocks without attention"),
        (["--method", "lokrr"], "did you mean 'lokr'"),
        (["--rank", "0"], "rank is at least 1"),
    ],
)
def test_mistakes(tiny_base_folder, options, message):
    result = blocks(tiny_base_folder, *options, code=1)
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_without_a_project_around(tiny_base_folder, tmp_path):
    program = Path(sys.executable).parent / "blockwise-lora"
    command = [program, "adapter", "blocks", tiny_base_folder / "unet", "--mask", "mid", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [row["block"] for row in json.loads(done.stdout) if row["trained"]] == ["MID"]
