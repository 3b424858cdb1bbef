"""Names for the adapters that a command is given, and options that have a value for each."""

from collections.abc import Sequence
from pathlib import Path

from blockwise_lora.errors import UserError

FORMATS = ("diffusers", "peft", "kohya", "lycoris")
"""In which adapters are written; told here without loading those who write them."""

# Files that every tool calls so: their folder tells more.
_EVERYONES = ("pytorch_lora_weights", "adapter", "adapter_model", "adapter_config")


def names_of(paths: Sequence[str], given: str | None = None) -> tuple[str, ...]:
    """A name for each adapter.

    Args:
        paths: of the adapters.
        given: names with commas; None takes those of the files or folders, numbered where two
            are alike.

    Raises:
        UserError: not one name for each, or one that is empty, twice there or has a `=`.
    """
    if given is None:
        found: list[str] = []
        for path in paths:
            name, number = _name(Path(path)), 2
            while name in found:
                name, number = f"{_name(Path(path))}-{number}", number + 1
            found.append(name)
        return tuple(found)
    names = tuple(name.strip() for name in given.split(","))
    if len(names) != len(paths):
        raise UserError(f"--names {given}: {len(names)} for {len(paths)} adapters")
    if len(set(names)) < len(names) or not all(names) or "=" in given:
        raise UserError(f"--names {given}: each adapter has a name of its own, without '='")
    return names


def for_each(
    values: Sequence[str], names: Sequence[str], option: str, default: str | None = None
) -> list[str]:
    """An option's values in the order of the adapters.

    Args:
        values: one for each adapter, in their order; or NAME=VALUE, in any.
        names: the adapters'.
        option: for errors.
        default: of adapters that no NAME=VALUE names; None: there has to be one.

    Raises:
        UserError: too few, too many, or for an adapter that is not there.
    """
    if not any("=" in value for value in values):
        if len(values) != len(names):
            raise UserError(f"{option}: {len(values)} for {len(names)} adapters")
        return list(values)
    named = dict(value.strip().split("=", 1) for value in values if "=" in value)
    if len(named) < len(values):
        raise UserError(
            f"{option}: one value for each adapter in order, or all NAME=VALUE, once each"
        )
    if unknown := [name for name in named if name not in names]:
        raise UserError(f"{option}: no adapter is named {unknown[0]!r}, only {', '.join(names)}")
    if missing := [name for name in names if default is None and name not in named]:
        raise UserError(f"{option}: nothing for {missing[0]}")
    return [named.get(name, default) for name in names]


def _name(path: Path) -> str:
    path = path.absolute()
    name = path.stem if path.suffix == ".safetensors" or path.stem in _EVERYONES else path.name
    return (path.parent.name if name in _EVERYONES else name).replace(",", "_").replace("=", "_")
