import pytest
from click.testing import CliRunner

from blockwise_lora import cli


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
