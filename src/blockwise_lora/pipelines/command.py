"""Command lines, as messages and reports tell them."""

from collections.abc import Mapping
from typing import Any


def kedro_run(
    environment: str, pipelines: str = "", parameters: Mapping[str, Any] | None = None
) -> str:
    """A `kedro run` that one can copy.

    Args:
        environment: of Kedro; empty for the default.
        pipelines: with commas; empty for the default.
        parameters: dotted name to value.
    """
    words = ["kedro run"]
    if environment:
        words.append(f"--env {environment}")
    if pipelines:
        words.append(f"--pipelines {pipelines}")
    if parameters:
        values = {name: "null" if value is None else value for name, value in parameters.items()}
        words.append("--params " + ",".join(f"{name}={value}" for name, value in values.items()))
    return " ".join(words)
