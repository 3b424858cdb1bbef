"""The command line: Kedro's own `run`, with the user's mistakes told in plain words.

Commands here are commands of `kedro` inside the project (`kedro run`, `kedro results`) and of
`blockwise-lora`, which also works below the project's folder.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.startup import bootstrap_project
from kedro.utils import find_kedro_project

from blockwise_lora.commands.adapter import adapter
from blockwise_lora.commands.plain import PlainCommand
from blockwise_lora.tracking import Tracker

RESULTS = {
    "picture grid": "data/08_reporting/grid.png",
    "report (open it in a browser)": "data/08_reporting/report.html",
    "table of scores": "data/08_reporting/evaluation.csv",
    "the same for programs": "data/08_reporting/evaluation.json",
    "adapters": "data/06_models/<variant>/<concept>/",
}


@click.group(name="blockwise-lora", context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Train adapters on chosen blocks, stack them, compare."""


def _run(**options: Any) -> Any:
    """Kedro's, from the project's folder: relative paths in parameters are the project's."""
    os.chdir(find_kedro_project(Path.cwd()) or Path.cwd())
    return kedro_run.callback(**options)


run = PlainCommand("run", params=kedro_run.params, callback=_run, help=kedro_run.help)
cli.add_command(run)
cli.add_command(adapter)


@cli.command()
def results() -> None:
    """Say where the last comparison is."""
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    place_of_all = "" if project == Path.cwd() else f", in {project}"
    click.echo(f"\nWhere to look{place_of_all}:")
    for what, place in RESULTS.items():
        mark = "" if "<" in place or (project / place).exists() else "   (not there yet)"
        click.echo(f"  {what:<32}{place}{mark}")
    click.echo(f"  {'every run, in MLflow':<32}make mlflow")
    click.echo(f"  {'the pipelines, in a browser':<32}make viz")


@cli.command()
@click.option("--port", default=5000, show_default=True, help="Port on this machine.")
def mlflow(port: int) -> None:
    """Show every run in MLflow's web page, to this machine alone."""
    project = find_kedro_project(Path.cwd()) or Path.cwd()
    uri = Tracker(project, "", "").uri
    click.echo(f"{uri}\nhttp://127.0.0.1:{port} in about 20 seconds; Ctrl-C ends it")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    # A relative MLFLOW_TRACKING_URI is the project's, as it is for `run`.
    sys.exit(subprocess.call([*command, "--host", "127.0.0.1", "--port", str(port)], cwd=project))


def main() -> None:
    """Run a command inside the project that the working directory lies in."""
    project = find_kedro_project(Path.cwd())
    if project is None:
        sys.exit("Error: no Kedro project here: run this in the project's folder or below it")
    bootstrap_project(project)
    cli()
