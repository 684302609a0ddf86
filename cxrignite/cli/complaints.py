"""What is wrong with a recipe, in one line: the file and line, the key, the rule, the nearest name.

jsonargparse knows what is wrong but not where; this file reads the same YAML with line numbers,
finds what no parser tells (a key written twice, a key that does not exist), and says where.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import re
import stat
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cxrignite.cli.shipped_recipes import recipe_names
from cxrignite.errors import RecipeError

# A recipe is a page of text; far more nodes than this are an anchor bomb.
_MAX_NODES = 20_000
_MAX_DEPTH = 20
_MAX_BYTES = 1_000_000
_NULL = "tag:yaml.org,2002:null"
_DATE = "tag:yaml.org,2002:timestamp"
_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")
}
# What YAML's own words mean to somebody who does not know how it is read.
_YAML_HINTS = {
    "U+0000": "a file in UTF-16, or none of text; save it as UTF-8",
    "mapping values are not allowed": (
        "a space after a colon or a quote is missing above, or this line is indented too far"
    ),
    "'\\t'": "this line is indented by a tab; take spaces",
    "expected <block end>": "this line is indented otherwise than those it belongs to",
    "could not find expected ':'": "a colon and a space are missing",
    "unknown escape": "a backslash; write paths with / or in single quotes",
    "expected ',' or": "a comma or a bracket is missing, here or above",
}
# Where a setting of the usual classes belongs that is written elsewhere.
_CLASS_SETTINGS = {
    **dict.fromkeys(("lr", "weight_decay", "momentum", "betas"), "optimizer"),
    **dict.fromkeys(("root", "classes", "patient_pattern"), "data.source"),
    **dict.fromkeys(("arch", "weights", "dropout", "hidden", "width"), "model"),
}
_OF_CLASS = ("class_path", "init_args", "dict_kwargs")
# `handlers+:` appends to what an earlier recipe says.
_APPEND = "+"


@dataclasses.dataclass(frozen=True)
class RecipeFile:
    """A recipe file and the line of each of its keys.

    Attributes:
        path: As it was given.
        lines: From a dotted key (`trainer.max_epochs`) to its line, counted from 1.
        scalars: The text of each value that is no mapping and no list; None for null.
    """

    path: Path
    lines: Mapping[str, int]
    scalars: Mapping[str, str | None]


def read_recipe_file(path: Path) -> RecipeFile:
    """Find each key's line, and refuse what YAML would pass over in silence.

    Raises:
        RecipeError: The file is missing, too large, no YAML, no mapping, carries a language tag, or
            has a key twice.
    """
    try:
        _check_size(path)
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        if isinstance(error, FileNotFoundError):
            reason = f"there is no such file{_meant(path)}"
        raise RecipeError(f"{path}: cannot read this recipe: {reason}") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or "nested too deeply"
        if isinstance(error, yaml.reader.ReaderError):
            problem = f"the character U+{error.character:04X} is not allowed"
        hint = next((f"; {told}" for words, told in _YAML_HINTS.items() if words in problem), "")
        raise RecipeError(f"{where}: not valid YAML: {problem}{hint}") from error
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(f"{path}: a recipe must be a mapping of keys to values")
    lines: dict[str, int] = {}
    scalars: dict[str, str | None] = {}
    for key, line, value in _walk(root, ""):
        if key.count(".") > _MAX_DEPTH:
            raise RecipeError(f"{path}:{line}: a recipe must be at most {_MAX_DEPTH} levels deep")
        if len(lines) > _MAX_NODES:
            raise RecipeError(f"{path}: a recipe must have under {_MAX_NODES} keys and values")
        if key in lines:
            raise RecipeError(
                f"{path}:{line}: key '{key}' stands twice, first in line {lines[key]}"
            )
        if value.tag == _DATE:
            raise RecipeError(
                f"{path}:{line}: YAML reads '{value.value}' as a date: put '{key}' in quotes"
            )
        if value.tag not in _TAGS:
            raise RecipeError(
                f"{path}:{line}: YAML tags are refused in a recipe, got '{value.tag}'"
            )
        lines[key] = line
        if isinstance(value, yaml.ScalarNode):
            scalars[key] = None if value.tag == _NULL else value.value
    return RecipeFile(path, lines, scalars)


def _check_size(path: Path) -> None:
    """Refuse to read as a recipe what may have no end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise RecipeError(f"{path}: a recipe must be a regular file, got a device or a pipe")
    if status.st_size > _MAX_BYTES:
        raise RecipeError(
            f"{path}: a recipe must be under {_MAX_BYTES} bytes, got {status.st_size}"
        )


def _walk(node: yaml.Node, prefix: str) -> Iterator[tuple[str, int, yaml.Node]]:
    """Yield every dotted key below `node`, its line and its value; list elements count from 0."""
    children: Iterable[tuple[str, yaml.Node, yaml.Node]] = ()
    if isinstance(node, yaml.MappingNode):
        children = ((str(key.value), key, value) for key, value in node.value)
    elif isinstance(node, yaml.SequenceNode):
        children = ((str(number), value, value) for number, value in enumerate(node.value))
    for name, place, value in children:
        yield f"{prefix}{name}", place.start_mark.line + 1, value
        yield from _walk(value, f"{prefix}{name}.")


def _meant(path: Path) -> str:
    """Which file was meant by a name that there is none of."""
    if str(path.with_suffix("")) in recipe_names():
        name = path.with_suffix("")
        return f"; `cxrignite recipes copy {name}` makes {name.name}.yaml"
    others = {each.stem: each for each in path.parent.glob("*.y*ml")}
    near = difflib.get_close_matches(path.stem, others, n=1)
    return f"; did you mean '{others[near[0]]}'?" if near else ""


def check_keys(file: RecipeFile, recipe_class: type, class_keys: Iterable[str] = ()) -> None:
    """Refuse a key that no group of the recipe has, or that belongs below `init_args`.

    Args:
        file: The recipe.
        recipe_class: A dataclass of values and of dataclasses.
        class_keys: Keys that take a class by its `class_path`, or a list of them.

    Raises:
        RecipeError: Naming the file, the line, the key and the nearest right name; also where a key
            that needs a value has none.
    """
    for key, line in file.lines.items():
        group: Any = recipe_class
        *parents, last = key.split(".")
        for parent in parents:
            group = (
                typing.get_type_hints(group).get(parent)
                if dataclasses.is_dataclass(group)
                else None
            )
        if not dataclasses.is_dataclass(group):
            continue
        types = typing.get_type_hints(group)
        name = last.removesuffix(_APPEND)
        if name not in types:
            prefix = ".".join([*parents, ""])
            near = _elsewhere(name, recipe_class) or nearest(last, types, prefix)
            raise RecipeError(f"{file.path}:{line}: no key '{key}'{near}")
        if file.scalars.get(key, key) is None and type(None) not in typing.get_args(types[name]):
            raise RecipeError(f"{file.path}:{line}: '{key}' must have a value, got null")
    _check_settings(file, class_keys)


def _elsewhere(name: str, recipe_class: type) -> str:
    """Where a key belongs that stands in the wrong group."""
    places = [
        f"{group}.{name}"
        for group, kind in typing.get_type_hints(recipe_class).items()
        if dataclasses.is_dataclass(kind) and name in typing.get_type_hints(kind)
    ]
    if name in _CLASS_SETTINGS:
        places.append(f"{_CLASS_SETTINGS[name]}.init_args.{name}")
    return f"; did you mean '{places[0]}'?" if places else ""


def _check_settings(file: RecipeFile, class_keys: Iterable[str]) -> None:
    """Refuse a setting that stands beside the `class_path` of its class.

    Raises:
        RecipeError: Naming where it belongs.
    """
    keys = "|".join(map(re.escape, class_keys))
    for key, line in file.lines.items():
        beside = re.fullmatch(rf"((?:{keys})(?:\+?\.\d+)?)\.([A-Za-z_]\w*)", key)
        if beside and beside[2] not in _OF_CLASS:
            owner, name = beside.groups()
            raise RecipeError(
                f"{file.path}:{line}: no key '{key}'; a setting stands below init_args, "
                f"'{owner}.init_args.{name}', and its class in '{owner}.class_path'"
            )


def check_source_root(source: Any, files: Iterable[RecipeFile], argv: list[str]) -> None:
    """Keep a source of another class than an earlier recipe's from taking over its `root`.

    It gets its own default; one that has none is refused.

    Args:
        source: As it was parsed.
        files: The recipe files of this command, in their order.
        argv: The arguments of this command.

    Raises:
        RecipeError: No root is given for this class.
    """
    if source is None or "root" not in (source.get("init_args") or {}):
        return
    given = r"^--data\.source(\.init_args)?\.root\b|^--data\.source[\n=].*\broot:"
    if re.search(given, "\n".join(argv), re.MULTILINE):
        return
    classes = [
        (file.scalars.get("data.source.class_path"), "data.source.init_args.root" in file.lines)
        for file in files
    ]
    classes.append((source["class_path"], False))
    before, has_root = None, True
    for class_path, gives_root in classes:
        name = (class_path or before or "").rpartition(".")[2]
        has_root = gives_root or (has_root and before in (None, name))
        before = name or before
    if has_root:
        return
    module, _, name = source["class_path"].rpartition(".")
    kind = getattr(importlib.import_module(module), name)
    default = inspect.signature(kind).parameters["root"].default
    if default is inspect.Parameter.empty:
        raise RecipeError(
            f"data.source {before} must have a root of its own, got the one of another source in "
            "the recipe; name it: --data.source.root DIR"
        )
    source["init_args"]["root"] = default


def nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    """The end of a complaint: which name was meant, or which there are.

    Args:
        name: What was written.
        names: What would have been right.
        prefix: What stands before each of them.
    """
    names = sorted(set(names))
    near = difflib.get_close_matches(
        name.lower(), [each.lower() for each in names], n=1, cutoff=0.5
    )
    if near:
        match = next(each for each in names if each.lower() == near[0])
        return f"; did you mean '{prefix}{match}'?"
    return f"; there are {', '.join(names[:12])}" if names else ""
