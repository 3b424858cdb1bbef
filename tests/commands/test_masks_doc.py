"""docs/masks.md says what is so: its commands run, and print what stands below them."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from blockwise_lora.blocks import PRESETS, Mask
from blockwise_lora.blocks.vectors import LAYOUTS
from blockwise_lora.commands.adapter import adapter
from hub_cache import write_hub_cache

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "masks.md").read_text(encoding="utf-8")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(write_hub_cache(tmp_path)))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def shown() -> list[tuple[str, str]]:
    """Each command with the output that is printed below it ("" where none is)."""
    lines, found = TEXT.splitlines(), []
    for number, line in enumerate(lines):
        match = re.fullmatch(r"    (\$ )?(kedro|blockwise-lora) adapter (.+)", line)
        if not match:
            continue
        output = []
        for below in lines[number + 1 :] if match[1] else []:
            if below.startswith("    $") or (below and not below.startswith("    ")):
                break
            output.append(below.removeprefix("    "))
        found.append((match[3], "\n".join(output).strip()))
    return found


@pytest.mark.parametrize(("command", "output"), shown())
def test_commands_print_what_stands_below_them(command, output, hub, monkeypatch):
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(adapter, shlex.split(command))
    assert result.exit_code == 0, result.output
    if output:
        assert result.stdout.strip() == output


def test_there_are_commands_of_each_kind():
    commands = [command for command, _ in shown()]
    assert sum(command.startswith("vector") for command in commands) >= 5
    assert sum(command.startswith("blocks") for command in commands) >= 4


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its two head lines."""
    section = TEXT.split(heading)[1].split("\n\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    rows = [line.strip("|").split("|") for line in lines[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_table_of_presets_is_the_presets():
    rows = {row[0].strip("`"): [cell.strip("`") for cell in row[1:]] for row in table("## Presets")}
    assert rows == {n: [p.masks.get(4, ""), p.masks.get(3, "")] for n, p in PRESETS.items()}


def test_the_table_of_lists_has_every_length():
    assert {int(row[0]) for row in table("## Lists of block weights")} == set(LAYOUTS)


def test_every_mask_of_the_text_can_be_read():
    blocks = LAYOUTS[26].family
    masks = [mask for row in table("## Sentences") for mask in re.findall(r"`([^`]+)`", row[0])]
    masks += re.findall(r"`'([^'`]+)'`", TEXT)
    masks += [a or b for a, b in re.findall(r"blocks=(?:'([^']+)'|([^\"\n]+))", TEXT)]
    for line in re.findall(r"^ +(?:character|style): (\{.+\})$", TEXT, flags=re.MULTILINE):
        masks.append(yaml.safe_load(line)["blocks"])
    assert len(masks) > 15
    for mask in masks:
        assert Mask.parse(mask).selected(blocks), mask
