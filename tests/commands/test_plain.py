import click
from click.testing import CliRunner
from kedro.io import DatasetError

from blockwise_lora.commands.plain import PlainCommand
from blockwise_lora.errors import UserError


def failing(error: Exception) -> click.Command:
    def callback():
        try:
            raise error
        except Exception as cause:
            raise DatasetError("Failed while saving data") from cause

    return PlainCommand("run", callback=callback)


def test_a_users_mistake_is_told_without_a_traceback():
    result = CliRunner().invoke(failing(UserError("no pictures in data/x: put some there")))
    assert result.exit_code == 1
    assert "Error: no pictures in data/x: put some there" in result.output
    assert "Traceback" not in result.output
    assert "Failed while" not in result.output


def test_a_bug_keeps_its_traceback():
    result = CliRunner().invoke(failing(KeyError("x")))
    assert isinstance(result.exception, DatasetError)
