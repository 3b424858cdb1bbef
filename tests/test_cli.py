from pathlib import Path

import pytest
from click.testing import CliRunner

from blockwise_lora import cli


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project, with the working directory below it."""
    (tmp_path / "pyproject.toml").write_text("[tool.kedro]\n")
    (tmp_path / "data" / "08_reporting").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "data")
    return tmp_path


def test_results_say_what_is_there(project):
    (project / "data" / "08_reporting" / "grid.png").write_bytes(b"")
    lines = CliRunner().invoke(cli.cli, ["results"]).output.splitlines()
    (grid,) = (line for line in lines if "grid.png" in line)
    (report,) = (line for line in lines if "report.html" in line)
    assert "not there yet" not in grid
    assert "not there yet" in report
    assert f"Where to look, in {project}:" in lines, "places are told as seen from there"


def test_results_name_no_folder_in_the_project_s_own(project, monkeypatch):
    monkeypatch.chdir(project)
    assert "Where to look:" in CliRunner().invoke(cli.cli, ["results"]).output.splitlines()


def test_a_run_from_below_the_project_finds_what_parameters_name(project, monkeypatch):
    called = []

    def kedros(**options):
        called.append((Path.cwd(), options["env"]))

    monkeypatch.setattr(cli.kedro_run, "callback", kedros)
    result = CliRunner().invoke(cli.cli, ["run", "--env", "test"])
    assert result.exit_code == 0, result.output
    assert called == [(project, "test")]


def test_the_page_of_runs_is_served_from_where_runs_are_recorded(project, monkeypatch):
    """A relative MLFLOW_TRACKING_URI is one place, from wherever both were started."""
    served = []
    monkeypatch.setattr(cli.subprocess, "call", lambda command, cwd: served.append(cwd))
    CliRunner().invoke(cli.cli, ["mlflow"])
    assert served == [project]


def test_outside_of_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="no Kedro project here"):
        cli.main()


def test_kedro_run_keeps_its_options():
    names = {option for parameter in cli.run.params for option in parameter.opts}
    assert {"--pipelines", "--params", "--env", "--namespaces"} <= names
