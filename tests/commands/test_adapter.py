import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from blockwise_lora.cli import cli
from blockwise_lora.commands.adapter import AdapterGroup, adapter
from blockwise_lora.errors import UserError

BINARIES = Path(sys.executable).parent


def test_every_module_is_a_command_of_its_name():
    context = click.Context(adapter)
    for name in adapter.list_commands(context):
        command = adapter.get_command(context, name)
        assert isinstance(command, click.Command)
        assert command.name == name
        assert command.get_short_help_str(), name


def test_it_is_a_command_of_kedro():
    result = CliRunner().invoke(cli, ["adapter", "--help"])
    assert result.exit_code == 0
    assert "masks, blocks and adapter files" in result.output


def test_unknown_commands_are_refused():
    result = CliRunner().invoke(adapter, ["nonsense"])
    assert result.exit_code == 2
    assert "No such command 'nonsense'" in result.output


def test_a_users_mistake_in_a_subcommand_ends_in_plain_words():
    group = AdapterGroup("adapter")

    class Failing(AdapterGroup):
        def get_command(self, ctx, name):
            @click.command()
            def failing():
                raise UserError("a.safetensors: truncated, fetch it again")

            return failing

    result = CliRunner().invoke(Failing("adapter"), ["any"])
    assert group.list_commands(click.Context(group)) == adapter.list_commands(None)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit)
    assert "Error: a.safetensors: truncated, fetch it again" in result.output


@pytest.mark.parametrize("program", [["blockwise-lora"], ["python", "-m", "blockwise_lora"]])
def test_no_project_is_needed_and_nothing_else_is_printed(program, tmp_path):
    command = [str(BINARIES / program[0]), *program[1:], "adapter", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: blockwise-lora adapter ")
    assert done.stderr == ""


def test_help_loads_nothing_heavy(tmp_path):
    code = (
        "import sys; from blockwise_lora.commands.adapter import adapter;"
        "adapter(['--help'], standalone_mode=False);"
        "print({'torch', 'kedro', 'diffusers', 'peft'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.splitlines()[-1] == "set()"
