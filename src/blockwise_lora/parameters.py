"""Parameter mappings to frozen dataclasses, with every mistake reported at once.

    config = typed(TrainingConfig, params["training"], "training")

A field's default is the parameter's default; a `ValueError` out of `__post_init__` is reported
beside the other mistakes. Understood annotations: bool, int, float (an int will do), str, Path
(from a string), None, unions, `Literal`, `tuple[X, ...]`, `tuple[X, Y]`, `list[X]`,
`dict[str, X]`, `Mapping[str, X]`, `Any`, and dataclasses inside dataclasses.
"""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from blockwise_lora.errors import UserError

T = TypeVar("T")


class ParameterError(UserError):
    """Parameters that do not fit; the message has one line for each mistake."""


class _MistakeError(Exception):
    """One or several mistakes in a value; `args` are the lines."""


def typed(cls: type[T], mapping: Mapping[str, Any] | None, where: str = "parameters") -> T:
    """Build the frozen dataclass `cls` from a parameter mapping.

    Args:
        cls: a dataclass type.
        mapping: names to values as YAML gives them; None counts as empty.
        where: the mapping's own name, put before each parameter in messages.

    Raises:
        ParameterError: listing every unknown, missing, mistyped and refused parameter.
    """
    try:
        return _dataclass(cls, {} if mapping is None else mapping, where)
    except _MistakeError as mistake:
        lines = mistake.args
        head = "a parameter does" if len(lines) == 1 else f"{len(lines)} parameters do"
        raise ParameterError(
            f"{head} not fit:\n" + "\n".join(f"  {line}" for line in lines)
        ) from None


def asdict(spec: Any) -> dict[str, Any]:
    """The mapping that `typed` reads back: only dicts, lists and plain values, fit for JSON."""
    return _plain(spec)


def _dataclass(cls: type[T], mapping: Any, where: str) -> T:
    if not isinstance(mapping, Mapping):
        raise _MistakeError(f"{where}: expected a mapping of parameters, got {_show(mapping)}")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    hints = get_type_hints(cls)
    lines = [_unknown(key, fields, where) for key in mapping if key not in fields]
    values = {}
    for name, field in fields.items():
        if name in mapping:
            try:
                values[name] = _value(hints[name], mapping[name], f"{where}.{name}")
            except _MistakeError as mistake:
                lines += mistake.args
        elif _required(field):
            lines.append(f"{where}.{name}: missing ({_name(hints[name])})")
    if not lines:
        try:
            return cls(**values)
        except ValueError as error:
            lines += [f"{where}: {line}" for line in str(error).splitlines()]
    raise _MistakeError(*lines)


def _value(hint: Any, value: Any, where: str) -> Any:
    """Convert one value to its annotated type, or raise `_MistakeError`."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _union(args, value, where)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in args):
            near = _nearest(value, args)
            raise _MistakeError(f"{where}: expected {_name(hint)}, got {_show(value)}{near}")
        return value
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _dataclass(hint, value, where)
    if hint in (tuple, list) or origin in (tuple, list):
        return _sequence(origin or hint, args, value, where)
    if hint in (dict, Mapping) or origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _MistakeError(f"{where}: expected a mapping, got {_show(value)}")
        inner = args[1] if args else Any
        return _collect((k, inner, v, f"{where}.{k}") for k, v in value.items())
    return _scalar(hint, value, where)


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if hint is float and isinstance(value, str):
        # YAML 1.1 reads 1e-4 (no dot) as a string.
        try:
            return float(value)
        except ValueError:
            pass
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint in (None, type(None)) and value is None:
        return None
    # bool is an int in Python, but `steps: true` is a mistake.
    mistaken_bool = type(value) is bool and hint is not bool
    if isinstance(hint, type) and isinstance(value, hint) and not mistaken_bool:
        return value
    raise _MistakeError(f"{where}: expected {_name(hint)}, got {_show(value)}")


def _union(args: tuple, value: Any, where: str) -> Any:
    mistakes = []
    # A value that already has one of the types wins over one that must be converted.
    for hint in sorted(args, key=lambda arg: type(value) is not arg):
        try:
            return _value(hint, value, where)
        except _MistakeError as mistake:
            mistakes.append((hint, mistake))
    inner = [m for hint, m in mistakes if dataclasses.is_dataclass(hint)]
    if isinstance(value, Mapping) and len(inner) == 1:
        raise inner[0]
    expected = " or ".join(_name(arg) for arg in args)
    raise _MistakeError(f"{where}: expected {expected}, got {_show(value)}")


def _sequence(kind: type, args: tuple, value: Any, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _MistakeError(f"{where}: expected a list, got {_show(value)}")
    if not args or args[-1] is Ellipsis or kind is list:
        hints = [args[0] if args else Any] * len(value)
    else:
        hints = list(args)
        if len(hints) != len(value):
            raise _MistakeError(f"{where}: expected {len(hints)} values, got {len(value)}")
    pairs = enumerate(zip(hints, value, strict=True))
    return kind(_collect((i, hint, item, f"{where}[{i}]") for i, (hint, item) in pairs).values())


def _collect(items: Any) -> dict[Any, Any]:
    """Convert (key, hint, value, where) one by one, gathering all mistakes."""
    values, lines = {}, []
    for key, hint, value, where in items:
        try:
            values[key] = _value(hint, value, where)
        except _MistakeError as mistake:
            lines += mistake.args
    if lines:
        raise _MistakeError(*lines)
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = (field.name for field in dataclasses.fields(value) if field.init)
        return {name: _plain(getattr(value, name)) for name in fields}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _required(field: dataclasses.Field) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _unknown(key: Any, fields: Mapping[str, Any], where: str) -> str:
    near = _nearest(key, fields) or f"; known: {', '.join(fields) or 'none'}"
    return f"{where}.{key}: unknown parameter{near}"


def _nearest(value: Any, choices: Any) -> str:
    close = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _name(hint: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
    names |= {type(None): "null", None: "null", Path: "a path"}
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_name(arg) for arg in get_args(hint))
    if hint in names:
        return names[hint]
    if get_origin(hint) in (tuple, list) or hint in (tuple, list):
        return "a list"
    return "a mapping" if dataclasses.is_dataclass(hint) else str(getattr(hint, "__name__", hint))


def _show(value: Any) -> str:
    text = repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return "null" if value is None else f"{shown} ({type(value).__name__})"
