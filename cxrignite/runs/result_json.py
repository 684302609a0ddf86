"""Typed results as JSON, read strictly: another form is refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from cxrignite.errors import DamagedRunError
from cxrignite.runs.run_json import read_object

Result = TypeVar("Result")

NOT_STORED: Mapping[str, Any] = {"is_stored": False}
"""Metadata of a dataclass field that the JSON leaves out; it needs a default."""


def to_json(value: object) -> Any:
    """Plain values, ready for JSON, of dataclasses, tuples, mappings and scalars."""
    if is_dataclass(value):
        stored = _stored(value)
        return {each.name: to_json(getattr(value, each.name)) for each in stored}
    if isinstance(value, Mapping):
        return {key: to_json(each) for key, each in value.items()}
    return [to_json(each) for each in value] if isinstance(value, tuple) else value


def from_json(kind: type[Result], form: int, content: Mapping[str, object]) -> Result:
    """A dataclass from its JSON: the `format`, and what `to_json` made of the fields.

    Args:
        kind: The dataclass.
        form: The number that `format` must be.
        content: The plain values.

    Raises:
        ValueError: The format is another one, or a field is missing, unknown, or of another type.
    """
    found = content.get("format")
    if found != form:
        raise ValueError(f"format must be {form}, got {found}")
    result: Result = _decoded(kind, {k: v for k, v in content.items() if k != "format"}, "content")
    return result


def read_result(path: Path, parse: Callable[[dict[str, Any]], Result], command: str) -> Result:
    """Read a result from its JSON file.

    Args:
        path: The file.
        parse: Makes the result of the plain values, or raises ValueError.
        command: Writes the file again.

    Raises:
        DamagedRunError: The file is missing, damaged, or of another form.
    """
    content = read_object(path)
    try:
        return parse(content)
    except ValueError as error:
        raise DamagedRunError(
            f"{path} is damaged or of another version: {error}; `{command}` writes it again"
        ) from error


def _stored(kind: Any) -> list[Field[Any]]:
    return [each for each in fields(kind) if each.metadata.get("is_stored", True)]


def _decoded(kind: Any, content: Any, name: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if content is None and NoneType in arguments:
            return None
        (kind,) = (each for each in arguments if each is not NoneType)
        return _decoded(kind, content, name)
    if origin is Literal:
        _demand(content in arguments, f"one of {', '.join(map(str, arguments))}", content, name)
        return content
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        names = [each.name for each in _stored(kind)]
        _demand(isinstance(content, dict), "an object", content, name)
        if set(content) != set(names):
            raise ValueError(f"{name} must have {', '.join(names)}, got {', '.join(content)}")
        make: Any = kind
        return make(
            **{each: _decoded(hints[each], content[each], f"{name}.{each}") for each in names}
        )
    if origin is tuple or (isinstance(kind, type) and issubclass(kind, tuple)):
        kinds = arguments or tuple(get_type_hints(kind).values())
        _demand(isinstance(content, list), "a list", content, name)
        if kinds[-1] is Ellipsis:
            kinds = kinds[:1] * len(content)
        _demand(len(content) == len(kinds), f"{len(kinds)} values", content, name)
        values = [
            _decoded(each, value, f"{name}[{at}]")
            for at, (each, value) in enumerate(zip(kinds, content, strict=True))
        ]
        return tuple(values) if origin is tuple else kind(*values)
    if origin is not None:  # a mapping from names
        _demand(isinstance(content, dict), "an object", content, name)
        return {key: _decoded(arguments[1], each, f"{name}.{key}") for key, each in content.items()}
    allowed = (int, float) if kind is float else (kind,)
    _demand(type(content) in allowed, kind.__name__, content, name)
    return float(content) if kind is float else content


def _demand(holds: bool, wanted: str, content: object, name: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {wanted}, got {content!r:.80}")
