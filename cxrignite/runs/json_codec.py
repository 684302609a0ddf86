"""Conversion of typed results to JSON and back; reading is strict, since commands rely on it."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

_T = TypeVar("_T")


def to_json(result: object) -> bytes:
    """Return a dataclass as JSON; NaN and infinity, which JSON does not have, become null."""
    content: bytes = _adapter(cast("Any", type(result))).dump_json(result, indent=2)
    return content + b"\n"


def from_json(kind: type[_T], content: bytes) -> _T:
    """Return the dataclass that `to_json` wrote.

    Raises:
        ValueError: A key is missing or unknown, or its value is of another type or out of range.
    """
    try:
        result: _T = _adapter(cast("Any", kind)).validate_json(content, strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"{key}: {first['msg']}" if key else first["msg"]) from error
    return result


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
