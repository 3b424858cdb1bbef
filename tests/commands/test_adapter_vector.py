import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from blockwise_lora.blocks.settings import per_block
from blockwise_lora.blocks.vectors import LAYOUTS, Vector
from blockwise_lora.cli import cli

BINARIES = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
INS = "1,1,1,1,0,0,0,0,0,0,0,0,0,0,0,0,0"


def vector(*arguments: str, code: int = 0):
    result = CliRunner().invoke(cli, ["adapter", "vector", *arguments])
    assert result.exit_code == code, result.output
    return result


def test_a_list_becomes_a_sentence():
    result = vector(INS)
    assert result.stdout == "sd+IN01-IN02+IN04+base\n"
    assert "17 numbers: SD 1.x and 2.x" in result.stderr


@pytest.mark.parametrize("length", LAYOUTS)
def test_there_and_back(length):
    values = {name: i % 2 for i, name in enumerate(LAYOUTS[length].family.names)}
    numbers = str(Vector.of(values, length))
    sentence = vector(numbers).stdout.strip()
    assert vector(sentence, "--length", str(length)).stdout.strip() == numbers


def test_a_sentence_becomes_every_list_that_it_fits():
    result = vector("out1+IN03")
    lines = {int(line[:2]): line.split()[1] for line in result.stdout.splitlines()}
    assert list(lines) == [12, 17, 20, 23, 25, 26]
    assert lines[17] == "0,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0"
    assert lines[26] == "0,0,0,0,1" + ",0" * 12 + ",1,1,1" + ",0" * 6
    assert "17 numbers have no position for IN03" in result.stderr
    assert list(vector("D03-S02").stdout[:2]) == ["6", "1"]


def test_ranks_are_said_to_be_lost():
    result = vector("out1:16", "--length", "17")
    assert result.stdout == "0,0,0,0,0,0,0,0,1,1,1,0,0,0,0,0,0\n"
    assert "ranks are not part of a list" in result.stderr


def test_strengths_are_printed_as_the_parameter_that_they_are():
    numbers = "0.5,1,1,0.25" + ",0" * 13
    line = vector(numbers).stdout.strip()
    label, _, text = line.partition(":  ")
    assert label == "as strengths"
    entries = yaml.safe_load(text)
    found = per_block(entries, LAYOUTS[26].family)
    expected = dict.fromkeys(LAYOUTS[26].family.names, 0.0)
    assert found == expected | {"BASE": 0.5, "IN01": 1.0, "IN02": 1.0, "IN04": 0.25}


def test_the_strength_of_a_text_encoder_that_is_not_spoken_of_stays_as_it_is():
    assert "base" not in vector("0,0.5" + ",0" * 23).stdout
    assert "base" not in vector("1,0.5" + ",0" * 15).stdout


def test_a_negative_strength_in_front_is_no_option():
    assert "{all: 0, base: -0.5}" in vector("-0.5" + ",0" * 16).stdout


def test_kohyas_ranks_become_a_sentence_with_ranks():
    numbers = "0,0,0,0,16,16,16,8,8,8,8,8" + ",0" * 12 + ",4"
    assert "as ranks:      sd+in1:16+in2-in3:8+OUT11:4\n" in vector(numbers).stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,1,0", r"list of 3 numbers is no list of blocks. Lengths in use: 12 ("),
        ("out9", "SD 1.x and 2.x: mask 'out9': this model has no block out9; did you mean the"),
        ("ot1", "position 1: unknown block 'ot1'"),
    ],
)
def test_mistakes_are_told_plainly(text, message):
    result = vector(text, code=1)
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_length_that_is_not_in_use():
    assert (
        "no list has 18 numbers; in use: 12, 17" in vector("all", "--length", "18", code=1).stderr
    )


@pytest.mark.parametrize(("program", "folder"), [("blockwise-lora", None), ("kedro", ROOT)])
def test_in_a_shell_with_and_without_a_project(program, folder, tmp_path):
    command = [BINARIES / program, "adapter", "vector", "NOT IN09-OUT02", "--length", "26"]
    done = subprocess.run(
        command, cwd=folder or tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "0,0" + ",1" * 8 + ",0" * 7 + ",1" * 9
    assert done.stderr == ""
