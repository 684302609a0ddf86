"""Validation of a recipe against its JSON schema, before jsonargparse parses it.

The schema of a group comes from `cxrignite.recipe`. The schema of a class comes from its
constructor, when a recipe names it. Each error is one line: file and line, key, rule, value.
"""

from __future__ import annotations

import dataclasses
import importlib
import numbers
import sys
import traceback
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from cxrignite.cli.recipe_schema import GIVEN, Schema, SchemaWriter, parameters_of, subclasses
from cxrignite.cli.recipe_tree import CLASS_KEYS, Node, read_text
from cxrignite.errors import RecipeError, suggestion

DENIED_MODULES = (
    *sorted(name for name in sys.stdlib_module_names if name.isidentifier()),
    *("torch.hub", "torch.load", "torch.serialization", "torch.utils.cpp_extension"),
)
"""Modules that no `class_path` may name; classes of libraries and of the user are allowed."""

# The group or class that usually has a setting.
_CLASS_SETTINGS = {
    **dict.fromkeys(("lr", "weight_decay", "momentum", "betas"), "optimizer"),
    **dict.fromkeys(("root", "classes", "patient_pattern"), "data.source"),
    **dict.fromkeys(("arch", "weights", "dropout", "hidden", "width"), "model"),
}
_KINDS = {
    **{"integer": "an integer", "number": "a number", "string": "text"},
    **{"boolean": "true or false", "array": "a list", "object": "a mapping"},
}
_PLURALS = {"integer": "integers", "number": "numbers"}
_EXAMPLES = {"integer": "224", "number": "0.5"}
_MAX_LENGTH = 300


class RecipeKeys(SchemaWriter):
    """Writer of the schema of a whole recipe, with required keys and without a list of classes."""

    def group(self, group: type, prefix: str) -> Schema:
        """Return the schema of a dataclass; keys without a default are required."""
        none = dataclasses.MISSING
        required = [
            field.name
            for field in dataclasses.fields(group)
            if field.default is none and field.default_factory is none
        ]
        schema = super().group(group, prefix)
        return {**schema, "required": required}

    def choice(self, base: type) -> Schema:
        """Return a placeholder for a class, whose schema is made when a recipe names it."""
        return {"class": base}


def check_recipe(recipe: Node, schema: Schema, keys: RecipeKeys, names: str) -> dict[str, Any]:
    """Validate a recipe that is merged from files and options.

    Returns:
        The default `root` of the source, if the `root` of another class in an earlier recipe would
        replace it; usually empty.

    Raises:
        RecipeError: It names the file and line, the key, the rule and the value.
    """
    check = _Check(keys, keys_below(schema))
    check.group(recipe, schema, "")
    if check.missing:
        several = "missing keys: " if check.missing[1:] else "missing key "
        text = ", ".join(check.missing if check.missing[1:] else map(repr, check.missing))
        hint = "" if names else "; give a recipe with --config FILE"
        raise RecipeError(f"{f'{names}: ' if names else ''}{several}{text}{hint}")
    return check.own_root


class _Check:
    def __init__(self, keys: RecipeKeys, known: list[str]) -> None:
        self.keys, self.known = keys, known
        self.missing: list[str] = []
        self.own_root: dict[str, Any] = {}

    def value(self, node: Node, schema: Schema, key: str, owner: str = "") -> None:
        """Check a value of any kind; `owner` is the key of the class if it is a setting."""
        kinds = schema.get("anyOf", [schema])
        if isinstance(node.value, str) and not any("string" in _types(kind) for kind in kinds):
            node = read_text(node.value, node.place)
        for kind in kinds:
            if "class" in kind and not _is_null(node, kinds):
                return self.of_class(node, kind["class"], key, key)
            if "properties" in kind and isinstance(node.value, dict):
                return self.group(node, kind, key, owner)
        items = schema.get("items", {})
        if "class" in items and isinstance(node.value, list):
            for number, child in enumerate(node.value):
                self.of_class(child, items["class"], key, f"{key}.{number}")
            return None
        error = _deepest(_VALIDATOR(schema).iter_errors(node.plain()))
        if error is None:
            return None
        for step in error.absolute_path:
            child = node.value[step if isinstance(node.value, list) else str(step)]
            node = child if isinstance(child, Node) else node
        shown = f"'{owner}': '{key}'" if owner else f"'{key}'"
        got = node.plain()
        got = "null" if got is None else got
        is_truth = isinstance(got, bool) and error.schema.get("type") == "string"
        hint = "; YAML reads yes, no, on and off as true or false: write 'yes', 'no', 'on', 'off'"
        rule = _expected(error.schema)
        raise node.error(f"{shown} must be {rule}, got {got}{hint if is_truth else ''}")

    def group(self, node: Node, schema: Schema, key: str, owner: str = "") -> None:
        """Check a group of keys, or of settings of a class."""
        prefix = f"{key}." if key else ""
        properties = schema["properties"]
        for name, child in node.value.items():
            if name in properties:
                self.value(child, properties[name], f"{prefix}{name}", owner)
            elif owner:
                near = suggestion(name, properties, prefix)
                raise child.error(f"unknown setting '{prefix}{name}' of '{owner}'{near}")
            else:
                names = [each for each in properties if not each.endswith("+")]
                near = self.elsewhere(name.removesuffix("+")) or suggestion(name, names, prefix)
                raise child.error(f"unknown key '{prefix}{name}'{near}")
        for name in schema.get("required", ()):
            if name not in node.value:
                inner = properties[name]
                if inner.get("required"):
                    self.group(Node({}), inner, f"{prefix}{name}", owner)
                else:
                    self.missing.append(f"{prefix}{name}")

    def of_class(self, node: Node, base: type, key: str, at: str) -> None:
        """Check a class: a name, or a mapping with settings; `at` is `key` with a list index."""
        if isinstance(node.value, str):
            node = Node({"class_path": node}, node.place)
        if not isinstance(node.value, dict):
            got = "null" if node.value is None else node.plain()
            raise node.error(f"'{at}' must be a class, as Name or module.Name, got {got}")
        for name, child in node.value.items():
            if name not in CLASS_KEYS:
                raise child.error(
                    f"unknown key '{at}.{name}'; a setting belongs below init_args, "
                    f"'{at}.init_args.{name}', and the class in '{at}.class_path'"
                )
        path = node.get("class_path")
        if path is None or not isinstance(path.value, str):
            raise node.error(f"'{at}' needs a class_path{suggestion('', _names(base))}")
        kind = find_class(path, base, key)
        settings = node.get("init_args")
        if settings is None or settings.value is None:
            settings = Node({})
        if not isinstance(settings.value, dict):
            raise settings.error(f"'{at}.init_args' must be a mapping, got {settings.plain()}")
        self.settings(settings, kind, base, key, path)

    def settings(self, settings: Node, kind: Any, base: type, key: str, path: Node) -> None:
        """Check the settings of a class against the signature of its constructor."""
        schema = self.keys.of_class(set(), kind)["properties"]["init_args"]["properties"]
        parameters, takes_others = parameters_of(kind)
        given = GIVEN.get(base.__name__, set())
        if given:  # the first one is passed by position
            given = given | {parameter.name for parameter in parameters[:1]}
        for name, child in settings.value.items():
            if name in schema:
                if not child.inherited:
                    self.value(child, schema[name], name, key)
            elif not takes_others and not child.inherited:
                near = suggestion(name, set(schema) - given)
                raise child.error(f"unknown setting '{name}' of {kind.__name__}{near}")
        required = {each.name for each in parameters if each.default is each.empty} - given
        root = settings.get("root")
        if key == "data.source" and root is not None and root.inherited and "root" in schema:
            if "root" in required:
                raise path.error(
                    f"{key} {kind.__name__} must have its own root, got the root of another "
                    "source in the recipe; set --data.source.root DIR"
                )
            self.own_root = {each.name: each.default for each in parameters if each.name == "root"}
        missing = [each.name for each in parameters if each.name in required - {*settings.value}]
        if missing:
            raise path.error(f"'{key}' needs {', '.join(missing)}")

    def elsewhere(self, name: str) -> str:
        """Suggest the right group for a key that is in the wrong one."""
        places = [key for key in self.known if key.endswith(f".{name}")]
        if name in _CLASS_SETTINGS:
            places.append(f"{_CLASS_SETTINGS[name]}.init_args.{name}")
        return f"; did you mean '{places[0]}'?" if places else ""


def _names(base: type) -> list[str]:
    return [kind.__name__ for kind in subclasses(base) if kind.__name__[0] != "_"]


def find_class(path: Node, base: type, key: str) -> Any:
    """Return the class, or the function, that a recipe names.

    Raises:
        RecipeError: The class does not exist, is not allowed, cannot be imported, or has another
            base.
    """
    name = path.value
    if "." not in name:
        found = [kind for kind in (base, *subclasses(base)) if kind.__name__ == name]
        if found:
            return found[0]
        raise path.error(f"unknown class '{name}' for '{key}'{suggestion(name, _names(base))}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise path.error(f"'{key}' must be a class, as Name or module.Name, got {name}")
    _check_allowed(name, path, key)
    try:
        kind = _imported(name, path, key)
    except RecipeError:
        raise
    except ModuleNotFoundError as error:
        by = "" if f"{name}.".startswith(f"{error.name}.") else f", which {name} imports"
        way_out = "put it into this folder or install it"
        raise path.error(f"'{key}': no module '{error.name}'{by}; {way_out}") from error
    except Exception as error:  # a module of the user may raise anything
        raise RecipeError(_of_own_code(error)) from error
    defined = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"
    _check_allowed(defined, path, key)
    if isinstance(kind, type) and not issubclass(kind, base):
        rule = f"a subclass of {base.__module__}.{base.__qualname__}"
        if base.__name__ == "Attachable":
            rule = "a class whose attach(engine) takes only an engine"
        raise path.error(f"'{key}' must be {rule}, got {name}")
    return kind


def _check_allowed(defined: str, path: Node, key: str) -> None:
    if any(f"{defined}.".startswith(f"{module}.") for module in DENIED_MODULES):
        rule = "must be a class of a library or one of your own"
        raise path.error(f"'{key}' {rule}, got {path.value}")


def _imported(name: str, path: Node, key: str) -> Any:
    module, _, last = name.rpartition(".")
    try:
        parent = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module or "." not in module:
            raise
        parent = _imported(module, path, key)  # a class inside a class
    if not hasattr(parent, last):
        near = suggestion(last, [each for each in vars(parent) if each[0] != "_"])
        raise path.error(f"'{key}': no '{last}' in module {module}{near}")
    return getattr(parent, last)


def error_of_parser(error: Exception, recipe: Node) -> RecipeError:
    """Return the error of a constructor or of jsonargparse as one line."""
    chain: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in chain:
        chain.append(each)
        each = each.__cause__ or each.__context__
    # The broken rule of a constructor, which jsonargparse buries in a list of all its attempts.
    ruled = next((each for each in chain if isinstance(each, ValueError) and _is_rule(each)), error)
    if type(ruled).__module__ == "builtins" and not isinstance(ruled, ValueError | TypeError):
        return RecipeError(_of_own_code(error))
    text = " ".join(str(ruled).split())
    text = text if len(text) <= _MAX_LENGTH else f"{text[:_MAX_LENGTH]} ..."
    return RecipeError(f"{recipe.place_of(text.partition(' ')[0].rstrip(':'))}{text}")


def _is_rule(error: BaseException) -> bool:
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and not {"jsonargparse", "argparse.py"} & {*Path(frames[-1].filename).parts}


def _of_own_code(error: Exception) -> str:
    """Describe an exception of a module of the user, with its file and line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    filename, line, text = last.filename, last.lineno, f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError):
        filename, line, text = error.filename or "?", error.lineno, error.msg
    path = Path(filename)
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{shown}:{line}: {text}"


def _reads_as(kinds: type | tuple[type, ...]) -> Any:
    """Return a type check that also accepts text that reads as a value of the type."""

    def check(_checker: Any, value: Any) -> bool:
        if isinstance(value, str):
            try:
                value = yaml.safe_load(value)
                if isinstance(value, str) and kinds is numbers.Real:
                    value = float(value)  # YAML reads `1e-4` as text
            except (yaml.YAMLError, ValueError):
                return False
        is_truth = isinstance(value, bool)
        return isinstance(value, kinds) and (kinds is bool or not is_truth)

    return check


_VALIDATOR = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": _reads_as(int),
            "number": _reads_as(numbers.Real),
            "boolean": _reads_as(bool),
            "null": _reads_as(type(None)),
        }
    ),
)


def _deepest(errors: Any) -> ValidationError | None:
    """Return the error at the deepest key, alternatives included; None if there is none."""
    found: ValidationError | None = max(errors, key=lambda error: len(error.path), default=None)
    inner = [each for each in (found.context or () if found else ()) if each.path]
    return _deepest(inner) if inner else found


def _types(schema: Schema) -> list[str]:
    types = schema.get("type", [])
    if not schema or "enum" in schema:
        return ["string"]
    return [types] if isinstance(types, str) else types


def _is_null(node: Node, kinds: list[Schema]) -> bool:
    is_null = node.value is None or node.value in ("null", "~")
    return is_null and any("null" in _types(kind) for kind in kinds)


def _expected(schema: Schema) -> str:
    """Return the rule of a schema in words."""
    if "anyOf" in schema:
        return " or ".join(_expected(each) for each in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(map(repr, schema['enum']))}"
    if "examples" in schema:
        return f"one of {', '.join(map(repr, schema['examples']))}"
    if "prefixItems" in schema:
        kind = schema["prefixItems"][0].get("type", "")
        items = ", ".join([_EXAMPLES.get(kind, "...")] * len(schema["prefixItems"]))
        number = {2: "two", 3: "three"}.get(schema["minItems"], str(schema["minItems"]))
        return f"{number} {_PLURALS.get(kind, 'values')}, as [{items}]"
    if "properties" in schema:
        names = [name for name in schema["properties"] if not name.endswith("+")]
        return f"a mapping of {', '.join(names)}"
    values = schema.get("additionalProperties")
    if isinstance(values, dict) and values.get("type") == "array":
        return "a mapping of lists"
    return " or ".join(_KINDS.get(each, each) for each in _types(schema))


def keys_below(schema: Schema, prefix: str = "") -> list[str]:
    """Return the dotted keys of a recipe, groups included."""
    keys = []
    for name, child in schema["properties"].items():
        keys.append(f"{prefix}{name}")
        kinds = child.get("anyOf", [child])
        for kind in kinds:
            if "properties" in kind:
                keys += keys_below(kind, f"{prefix}{name}.")
    return keys
