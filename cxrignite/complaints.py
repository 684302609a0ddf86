"""What is wrong with a recipe, in one line: the file and line, the key, the rule, the nearest name.

jsonargparse knows what is wrong but not where; this file reads the same YAML with line numbers,
finds what no parser tells (a key written twice, a key that does not exist), and says where.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cxrignite.errors import RecipeError

# A recipe is a page of text; far more nodes than this are an anchor bomb.
_MAX_NODES = 20_000
_MAX_DEPTH = 20
_MAX_BYTES = 1_000_000
_NULL = "tag:yaml.org,2002:null"
_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")
}
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
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise RecipeError(f"{path}: a recipe must be under {_MAX_BYTES} bytes, got {size}")
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"{path}: cannot read this recipe: {reason}") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or "nested too deeply"
        raise RecipeError(f"{where}: not valid YAML: {problem}") from error
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
        if value.tag not in _TAGS:
            raise RecipeError(
                f"{path}:{line}: YAML tags are refused in a recipe, got '{value.tag}'"
            )
        lines[key] = line
        if isinstance(value, yaml.ScalarNode):
            scalars[key] = None if value.tag == _NULL else value.value
    return RecipeFile(path, lines, scalars)


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


def check_keys(file: RecipeFile, recipe_class: type) -> None:
    """Refuse a key that no group of the recipe has.

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
            raise RecipeError(f"{file.path}:{line}: no key '{key}'{_nearest(last, types, prefix)}")
        if file.scalars.get(key, key) is None and type(None) not in typing.get_args(types[name]):
            raise RecipeError(f"{file.path}:{line}: '{key}' must have a value, got null")


def _nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    names = sorted(set(names))
    near = difflib.get_close_matches(
        name.lower(), [each.lower() for each in names], n=1, cutoff=0.5
    )
    if near:
        match = next(each for each in names if each.lower() == near[0])
        return f"; did you mean '{prefix}{match}'?"
    return f"; there are {', '.join(names[:12])}" if names else ""


def _subclasses(base: type) -> Iterator[type]:
    child: type
    for child in base.__subclasses__():
        yield child
        yield from _subclasses(child)


def explain(
    error: Exception,
    files: Iterable[RecipeFile],
    argv: list[str],
    bases: Mapping[str, type],
    options: Iterable[str],
) -> RecipeError:
    """Turn a parser's error into one line that a person can act on.

    Args:
        error: What jsonargparse or a constructor raised.
        files: The recipe files of this command.
        argv: The arguments of this command.
        bases: From a recipe key to the class whose subclasses it takes.
        options: The names of this command's options, without dashes.
    """
    text = " ".join(str(error).split())
    found = re.search(r'[Kk]ey "([^"]+)"', text)
    key = found.group(1) if found else ""
    base = bases.get(key)
    text = re.sub(r'^Parser key "[^"]+":\s*', "", text)
    text = re.sub(r"Problem with given class_path '([^']+)':", r"in \1:", text)
    unknown_class = re.search(r"Expected a dot import path string: (\S+)", text)
    unknown_option = re.search(r"Option '([^']+)' is not accepted", text)
    unknown_argument = re.search(r"[Uu]nrecognized arguments: (--)?(\S+?)(?:[ =]|$)", text)
    # A setting of a group of settings: from a file, or as `--data.source.columns.lable`.
    unknown_inside = re.search(
        r"Group '([^']+)' does not accept option '([^']+)'", text
    ) or re.search(r"in [\w.]+: unrecognized arguments: --(\w+)\.(\w+)", text)
    no_group = re.search(r"Parser key \"([^\"]+)\": Unable to load config '([^']*)'", text)
    missing = re.search(r"the following arguments are required: ([\w.]+(?:, [\w.]+)*)", text)
    if unknown_class and base:
        name = unknown_class.group(1)
        names = [
            child.__name__ for child in _subclasses(base) if not child.__name__.startswith("_")
        ]
        text = f"no class '{name}' for '{key}'{_nearest(name, names)}"
    elif unknown_option:
        name, owner = unknown_option.group(1), _owner(text, base)
        settings = list(inspect.signature(owner).parameters) if owner else []
        of = f" of {owner.__name__}" if owner else f" of '{key}'"
        text = f"no setting '{name}'{of}{_nearest(name, settings)}"
    elif unknown_inside:
        group, name = unknown_inside[1], unknown_inside[2].partition(".")[0]
        near = _nearest(name, _settings_of(_owner(text, base), group), f"{group}.")
        text = f"no setting '{group}.{name}' of '{key}'{near}"
    elif key and no_group:
        text = f"'{key}': '{no_group[1]}' must be a mapping of settings, got {no_group[2]}"
    elif unknown_argument:
        dashes, name = unknown_argument.groups(default="")
        near = _nearest(name, options, dashes) if dashes else ""
        return RecipeError(f"no option '{dashes}{name}'{near}")
    elif key and missing:
        text = f"'{key}' needs {missing.group(1)}"
    elif key:
        text = _wrong_type(str(error), key) or f"'{key}': {text}"
    return RecipeError(f"{_where(key, text, list(files), argv)}{_shorten(text)}")


def _wrong_type(text: str, key: str) -> str | None:
    """Say which type a value must have; jsonargparse lists all that it tried, on ten lines."""
    inner, _, complaint = text.rpartition('Parser key "')[2].partition('"')
    listed = re.match(r":\s+Does not validate.*?\[(.*?)\]\n", complaint, re.DOTALL)
    single = re.match(r":\s+Expected an? (<class '[^']+'>|typing\.Literal\[.*?\])", complaint)
    value = re.search(r"(?:Got|Given) value: (.+?)(?:\. Got value: |\n|$)", complaint)
    found = listed or single
    if found is None or value is None or "Callable" in found.group(1):
        return None
    names = re.findall(r"<class '(?:[\w.]*\.)?(\w+)'>", found.group(1)) or [
        found.group(1).removeprefix("typing.Literal").strip("[]")
    ]
    if "dict[" in found.group(1):
        names.insert(
            0, "a mapping of lists" if "dict[str, list[" in found.group(1) else "a mapping"
        )
    kinds = " or ".join("null" if name == "NoneType" else name for name in names)
    place = f"'{key}': '{inner}'" if inner != key else f"'{key}'"
    return f"{place} must be {kinds}, got {value.group(1)}"


def _owner(text: str, base: type | None) -> type | None:
    named = re.findall(r"class_path='?([\w.]+)|in ([\w.]+):|[\"']class_path[\"']: '?([\w.]+)", text)
    wanted = {"".join(groups).rpartition(".")[2] for groups in named}
    return next((c for c in _subclasses(base) if c.__name__ in wanted), None) if base else None


def _settings_of(owner: type | None, group: str) -> list[str]:
    """The settings of a class that stand together in a dataclass."""
    parameter = inspect.signature(owner, eval_str=True).parameters.get(group) if owner else None
    kind = parameter.annotation if parameter else None
    return [field.name for field in dataclasses.fields(kind)] if isinstance(kind, type) else []


def _shorten(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[:limit]} ..."


def _where(key: str, text: str, files: list[RecipeFile], argv: list[str]) -> str:
    """Name the place of a mistake: nothing where it stands on the command line, else file and line.

    Inside the part of the file that the parser complains of, it is where a value or a key is that
    the complaint quotes or begins with; else where that part begins.
    """
    if key and any(arg.startswith(f"--{key}") for arg in argv):
        return ""
    words = re.findall(r"'([\w.]+)'", text) + re.findall(r"^[A-Za-z_][\w.]*", text)
    if not key:
        words = words[-1:]  # what is quoted may be anybody's word
        if words and any(arg.startswith(f"--{words[0]}") for arg in argv):
            return ""
    words.sort(key=lambda word: word == key)  # what is inside the complained part is more precise
    for file in reversed(files):
        inside = [each for each in file.lines if each.startswith(key)]
        for word in words:
            for each in inside:
                if word in (file.scalars.get(each), each) or f".{each}".endswith(f".{word}"):
                    return f"{file.path}:{file.lines[each]}: "
        for begins in (key, words[-1].partition(".")[0] if words else ""):
            if begins in file.lines:
                return f"{file.path}:{file.lines[begins]}: "
    return f"{files[-1].path}: " if len(files) == 1 and not key else ""
