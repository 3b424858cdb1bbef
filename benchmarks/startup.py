"""How long does the project take to start, beside an empty Kedro project?

    python benchmarks/startup.py

Two commands, in turn, round after round: `kedro registry list`, and a run of a pipeline that trains
nothing and records nothing, here the curation of the test environment's few pictures. The empty
project, written to a temporary folder, has one node that hands a parameter on. Seconds are CPU time
of the process, so that other work on the machine counts little. Results go to
benchmarks/results/startup.{json,md}.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from blockwise_lora.atomic import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ROUNDS = 5
TARGET = 2.0  # times an empty project

PYPROJECT = """
[tool.kedro]
package_name = "empty_project"
project_name = "empty"
kedro_init_version = "{version}"
source_dir = "src"
"""
REGISTRY = """
from kedro.pipeline import Pipeline, node


def register_pipelines():
    return {"__default__": Pipeline([node(lambda x: x, "params:x", "y", name="only")])}
"""
"""A project that does as little as a project can."""


def write_empty_project(folder: Path) -> None:
    """One node, one parameter, no datasets."""
    import kedro

    package = folder / "src" / "empty_project"
    package.mkdir(parents=True)
    (folder / "conf" / "base").mkdir(parents=True)
    (folder / "conf" / "local").mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT.format(version=kedro.__version__))
    (folder / ".telemetry").write_text("consent: false\n")
    (folder / "conf" / "base" / "parameters.yml").write_text("x: 1\n")
    (folder / "conf" / "base" / "catalog.yml").write_text("{}\n")
    (package / "__init__.py").touch()
    (package / "settings.py").touch()
    (package / "pipeline_registry.py").write_text(REGISTRY)


def cpu_seconds(folder: Path, *arguments: str) -> float:
    """CPU time of one `kedro` command.

    Raises:
        subprocess.CalledProcessError: the command failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "kedro", *arguments],
        cwd=folder,
        env=os.environ | {"DO_NOT_TRACK": "1"},
        check=True,
        capture_output=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def page(result: dict[str, dict[str, float]]) -> str:
    """The results as Markdown."""
    lines = ["# Start, beside an empty Kedro project", ""]
    lines += ["Command: `python benchmarks/startup.py`", ""]
    lines += [f"CPU seconds of a process; medians of {ROUNDS} rounds in turn.", ""]
    lines += ["| | here | empty project | ratio | target |", "|---" * 5 + "|"]
    lines += [
        f"| `{name}` | {row['here_s']:.2f} s | {row['empty_s']:.2f} s | {row['ratio']:.2f} | "
        f"at most {TARGET:.0f} |"
        for name, row in result.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and write the results."""
    untracked = ("--env", "test", "--params", "tracking.enabled=false")
    light = ("run", "--pipelines", "curation", *untracked)
    commands = {"kedro registry list": (("registry", "list"),) * 2, "kedro run": (light, ("run",))}
    result = {}
    with tempfile.TemporaryDirectory() as scratch:
        empty = Path(scratch)
        write_empty_project(empty)
        for name, (ours, theirs) in commands.items():
            pairs = [(cpu_seconds(ROOT, *ours), cpu_seconds(empty, *theirs)) for _ in range(ROUNDS)]
            here, there = (statistics.median(side) for side in zip(*pairs, strict=True))
            ratio = statistics.median(a / b for a, b in pairs)
            result[name] = {"here_s": here, "empty_s": there, "ratio": ratio}
    write_text(RESULTS / "startup.json", json.dumps(result, indent=2) + "\n")
    write_text(RESULTS / "startup.md", page(result))
    print(page(result))


if __name__ == "__main__":
    main()
