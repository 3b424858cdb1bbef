import click
import pytest
from click.testing import CliRunner
from kedro.io import DatasetError

from blockwise_lora import cli
from blockwise_lora.errors import UserError


def failing(error: Exception) -> click.Command:
    def callback():
        try:
            raise error
        except Exception as cause:
            raise DatasetError("Failed while saving data") from cause

    return cli.PlainErrors("run", callback=callback)


def test_a_users_mistake_is_told_without_a_traceback():
    result = CliRunner().invoke(failing(UserError("no pictures in data/x: put some there")))
    assert result.exit_code == 1
    assert "Error: no pictures in data/x: put some there" in result.output
    assert "Traceback" not in result.output
    assert "Failed while" not in result.output


def test_a_bug_keeps_its_traceback():
    result = CliRunner().invoke(failing(KeyError("x")))
    assert isinstance(result.exception, DatasetError)


def test_results_say_what_is_there(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    (tmp_path / "data" / "08_reporting").mkdir(parents=True)
    (tmp_path / "data" / "08_reporting" / "grid.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path / "data")
    lines = CliRunner().invoke(cli.cli, ["results"]).output.splitlines()
    (grid,) = (line for line in lines if "grid.png" in line)
    (report,) = (line for line in lines if "report.html" in line)
    assert "not there yet" not in grid
    assert "not there yet" in report


def test_outside_of_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="no Kedro project here"):
        cli.main()


def test_kedro_run_keeps_its_options():
    names = {option for parameter in cli.run.params for option in parameter.opts}
    assert {"--pipelines", "--params", "--env", "--namespaces"} <= names
