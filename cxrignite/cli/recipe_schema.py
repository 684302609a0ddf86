"""JSON schema of a recipe, for validation, for editors and for the reference documentation.

It is made from the types of `cxrignite.recipe` and from the constructors and docstrings of the
classes that a recipe may name. jsonargparse's own schema follows every type of every transform of
MONAI down to `io.BufferedIOBase`; this one stops at the constructors.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
import typing
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from docstring_parser import DocstringStyle, ParseError, parse

Schema = dict[str, Any]

_PLAIN: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    Path: {"type": "string"},
    type(None): {"type": "null"},
}
# Arguments that a factory gets when it is called; a recipe does not set them.
GIVEN = {"Optimizer": {"params"}, "LRScheduler": {"optimizer"}, "Sampler": {"labels", "seed"}}
# Modules whose classes have short names; others need their import path.
_LISTED = ("cxrignite.", "torch.", "monai.transforms.")
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema(recipe_class: type, bases: Mapping[str, type]) -> Schema:
    """Return the JSON schema of a recipe.

    No key is required, because a recipe may overlay another one.

    `bases` has the base class of each dotted key that takes a class.

    Returns:
        A schema of draft 2020-12. `$defs` holds the classes by their base.
    """
    writer = SchemaWriter(bases)
    schema = writer.group(recipe_class, "")
    return {"$schema": _DIALECT, "title": "A recipe of cxrignite", **schema, "$defs": writer.defs}


class SchemaWriter:
    """Writer of the schemas of groups and classes of a recipe.

    Args:
        bases: Base class of each dotted key that takes a class.
    """

    def __init__(self, bases: Mapping[str, type]) -> None:
        self.bases = bases
        self.defs: dict[str, Schema] = {}

    def group(self, group: type, prefix: str) -> Schema:
        """Return the schema of a dataclass, with its keys only."""
        hints, text = typing.get_type_hints(group), _described(group)
        properties: dict[str, Schema] = {}
        for field in dataclasses.fields(group):
            schema = self.value(hints[field.name], f"{prefix}{field.name}")
            schema |= field.metadata  # a rule of its own, as a pattern
            schema = _documented(schema, text.get(field.name), _default(field))
            properties[field.name] = schema
            if schema.get("type") == "array":
                appended = f"Appended to `{field.name}` of an earlier recipe."
                properties[f"{field.name}+"] = {**schema, "description": appended}
        description = inspect.getdoc(group) or ""
        return {
            "type": "object",
            "description": description.partition("\n")[0],
            "properties": properties,
            "additionalProperties": False,
        }

    def value(self, hint: Any, key: str) -> Schema:
        """Return the schema of a type; empty (anything is valid) if YAML cannot hold the type."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint in _PLAIN:
            return dict(_PLAIN[hint])
        if key in self.bases and not _is_union(hint) and origin not in (list, Sequence):
            return self.choice(self.bases[key])
        if origin is Literal:
            return {"enum": list(arguments)}
        if _is_union(hint):
            # A learning rate may be a tensor, which YAML cannot hold.
            arguments = tuple(each for each in arguments if each is not torch.Tensor)
            return _any_of([self.value(argument, key) for argument in arguments])
        if origin in (list, Sequence):
            return {"type": "array", "items": self.value(arguments[0], key)}
        if origin is tuple:
            return _tuple(
                [self.value(each, key) for each in arguments if each is not ...], arguments
            )
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.value(arguments[1], key)}
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.group(hint, f"{key}.")
        return {}

    def choice(self, base: type) -> Schema:
        """Return the schema of a key with a class: its name, or a mapping with its settings."""
        name = base.__name__.lstrip("_")
        if name not in self.defs:
            self.defs[name] = {}  # ends the recursion: a class may take one of its own base
            given = GIVEN.get(name, set())
            classes = {kind.__name__: kind for kind in _choices(base, given)}
            written = {each: self.of_class(given, classes[each]) for each in sorted(classes)}
            known = {
                each: schema
                for each, schema in written.items()
                if not (_is_ours(classes[each]) and _needs_object(schema))
            }
            path = {"type": "string", "pattern": r"\."}
            settings = {"class_path": path, "init_args": {"type": "object"}}
            own = {"type": "object", "properties": settings, "additionalProperties": False}
            own["description"] = "A class by its import path, for example one of your own."
            self.defs[name]["anyOf"] = [{"enum": list(known)}, path, *known.values(), own]
        return {"$ref": f"#/$defs/{name}"}

    def of_class(self, given: set[str], kind: type) -> Schema:
        """Return the schema of one class, by its short name, with its settings."""
        text, hints, properties = _described(kind), _hints(kind), {}
        for parameter in parameters_of(kind)[0]:
            name = parameter.name
            if name not in given:
                schema = self.value(hints.get(name, Any), f"{kind.__name__}.{name}")
                properties[name] = _documented(schema, text.get(name), parameter.default)
        settings = {"type": "object", "properties": properties, "additionalProperties": False}
        return {
            "type": "object",
            "description": (inspect.getdoc(kind) or "").partition("\n")[0],
            "properties": {"class_path": {"const": kind.__name__}, "init_args": settings},
            "additionalProperties": False,
        }


def _choices(base: type, given: set[str]) -> Iterator[type]:
    """Yield the classes with short names: public ones that accept the given arguments."""
    for kind in subclasses(base):
        name, module = kind.__name__, kind.__module__
        package = sys.modules.get(".".join(module.split(".")[:2]))
        hidden = _is_ours(kind) and getattr(package, name, None) is not kind
        of_dictionaries = module.startswith("monai.") and name.endswith(("d", "D", "Dict"))
        made = not (name.startswith("_") or inspect.isabstract(kind) or of_dictionaries or hidden)
        takes = given <= {parameter.name for parameter in parameters_of(kind)[0]}
        takes = takes and not (module.startswith("torch.nn.") and _is_refused(kind))
        if made and takes:
            yield kind


def _is_refused(kind: type) -> bool:
    """True if a loss of torch does not take one logit an image, such as `CrossEntropyLoss`."""
    from cxrignite.nn.losses import fitted_loss

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are deprecated and warn when constructed
        try:
            fitted_loss(kind())
        except (ValueError, TypeError):
            return True
    return False


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith("cxrignite.")


def _needs_object(schema: Schema) -> bool:
    """True if a class requires an object that YAML cannot hold, such as a model.

    Only for classes with resolvable types; many of MONAI use names that only type checkers know.
    """
    settings = schema["properties"]["init_args"]["properties"].values()
    return any("default" not in each and _is_anything(each) for each in settings)


def _is_anything(schema: Schema) -> bool:
    return set(schema) <= {"description"} or schema.get("additionalProperties") == {}


def subclasses(base: type) -> Iterator[type]:
    """Yield the imported subclasses that have short names, also those of subclasses.

    A class of one's own has none: whether it is known would depend on what was imported before.
    """
    child: type
    for child in base.__subclasses__():
        if child.__module__.startswith(_LISTED):
            yield child
        yield from subclasses(child)


def parameters_of(kind: Any) -> tuple[list[inspect.Parameter], bool]:
    """Return the named parameters of a constructor, and True if it accepts any others."""
    try:
        parameters = inspect.signature(kind).parameters.values()
    except ValueError:  # a constructor in C
        return [], True
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    others = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
    return [each for each in parameters if each.kind in named], others


def _constructor(kind: type) -> Any:
    return kind.__init__  # type: ignore[misc]  # looked up on the class, not on an instance


def _hints(kind: type) -> dict[str, Any]:
    try:
        return typing.get_type_hints(_constructor(kind))
    except (NameError, TypeError):  # a name that only type checkers know
        return {}


def _described(kind: type) -> dict[str, str]:
    """Return the docstring of each parameter, on one line."""
    described = {}
    for text in (inspect.getdoc(kind), inspect.getdoc(_constructor(kind))):
        try:
            parameters = parse(text or "", style=DocstringStyle.GOOGLE).params
        except ParseError:  # torch and MONAI use other styles
            continue
        for parameter in parameters:
            described[parameter.arg_name] = " ".join((parameter.description or "").split())
    return described


def _documented(schema: Schema, description: str | None, default: Any) -> Schema:
    text: Schema = {"description": description} if description else {}
    plain = default.value if hasattr(default, "value") else default
    if isinstance(plain, bool | int | float | str | list | tuple | None):
        text["default"] = list(plain) if isinstance(plain, tuple) else plain
    elif isinstance(plain, Path):
        text["default"] = str(plain)
    return {**schema, **text}


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    if factory is dataclasses.MISSING:
        return field.default
    made = factory()
    return made if isinstance(made, list | tuple) else dataclasses.MISSING


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _any_of(schemas: list[Schema]) -> Schema:
    """Return the schema of alternatives, in short form if possible; empty if one is empty."""
    if not (schemas and all(schemas)):
        return {}
    kinds = [schema.get("type") for schema in schemas if set(schema) == {"type"}]
    if len(kinds) == len(schemas):
        return {"type": list(dict.fromkeys(kinds))}
    return {"anyOf": schemas}


def _tuple(items: list[Schema], arguments: tuple[Any, ...]) -> Schema:
    if ... in arguments:
        return {"type": "array", "items": items[0]}
    return {
        "type": "array",
        "prefixItems": items,
        "minItems": len(items),
        "maxItems": len(items),
    }
