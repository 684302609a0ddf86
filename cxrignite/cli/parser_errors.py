"""What jsonargparse and constructors complain of, in one line that a person can act on.

jsonargparse says all that it tried, on up to twenty lines, and in its own words; each rule here
knows one of its sentences, and says which key, which rule and which value.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import traceback
import typing
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cxrignite.cli.complaints import RecipeFile, nearest
from cxrignite.errors import RecipeError

# What stands around every complaint of a class that is called later.
_WRAPPING = (
    r"Type collections\.abc\.Callable\[\[.*?\], [\w.]+\] expects a function or a callable class: "
)
_YAML_TRUTHS = ("True", "False")


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
    files = list(files)
    text = " ".join(str(error).split())
    text = re.sub(_WRAPPING, "", re.sub(r"\.+ Got value: (\S+)$", r" (\1)", text))
    found = re.search(r'[Kk]ey "([^"]+)"', text)
    key = found.group(1) if found else ""
    told = _of_command_line(text, options, files)
    if told is not None:
        return RecipeError(told)
    text = re.sub(r'^Parser key "[^"]+":\s*', "", text)
    text = re.sub(r"Problem with given class_path '([^']+)':", r"in \1:", text)
    own_rule = re.search(r"Errors: - (\w[\w.]* must be .+?, got .+?) - Expected", text)
    if own_rule:
        text = own_rule[1]
    elif key:
        text = (
            _wrong_type(str(error), key)
            or _wrong_class(text, key, bases.get(key))
            or _no_class(key, bases.get(key), files, argv)
            or _wrong_setting(text, key, bases.get(key))
            or f"'{key}': {text}"
        )
    elif type(error).__module__ == "builtins" and not isinstance(error, (ValueError, TypeError)):
        return RecipeError(_of_own_code(error))
    return RecipeError(f"{_where(key, text, files, argv)}{_shorten(text)}")


def _of_command_line(text: str, options: Iterable[str], files: list[RecipeFile]) -> str | None:
    """A mistake in the options, for which no file is to blame, or a key that is nowhere."""
    unknown = re.search(r"^[Uu]nrecognized arguments: (-*)(\S+?)(?:[ =]|$)", text)
    if unknown and unknown[1]:
        return f"no option '{unknown[1]}{unknown[2]}'{nearest(unknown[2], options, '--')}"
    if unknown:
        is_recipe = unknown[2].endswith((".yaml", ".yml"))
        hint = f"; name a recipe with --config {unknown[2]}" if is_recipe else ""
        return f"'{unknown[2]}' is no option{hint}"
    valueless = re.search(r"^argument (--\S+): expected .*argument", text)
    if valueless:
        return f"{valueless[1]} needs a value"
    missing = re.search(r"^the following arguments are required: (.+)$", text)
    if missing:
        keys = missing[1].split(", ")
        told = f"these keys are missing: {missing[1]}" if keys[1:] else f"no key '{keys[0]}'"
        if not files:
            return f"{told}; name a recipe with --config FILE"
        return f"{', '.join(str(file.path) for file in files)}: {told}"
    return None


def _wrong_class(text: str, key: str, base: type | None) -> str | None:
    """A key that takes a class, and did not get one that fits."""
    unknown = re.search(r"Expected a dot import path string: (.+?)(?: - |$)", text)
    if unknown and base:
        names = [child.__name__ for child in _subclasses(base) if child.__name__[0] != "_"]
        return f"no class '{unknown[1]}' for '{key}'{nearest(unknown[1], names)}"
    misfit = re.search(
        r"Expected '([\w.]+)' to be a (?:subclass of|function)|"
        r"Import path (\S+) does not (?:correspond to|implement)",
        text,
    )
    if misfit and base:
        rule = f"a subclass of {base.__module__}.{base.__qualname__}"
        if base.__name__ == "Attachable":
            rule = "a class whose attach(engine) needs no more than an engine"
        return f"'{key}' must be {rule}, got {misfit[1] or misfit[2]}"
    denied = re.search(r"Importing '([\w.]+)' is not allowed", text)
    if denied:
        return f"'{key}' must name a class of a library or of your own, got {denied[1]}"
    module = re.search(r"No module named '([\w.]+)'", text)
    if module:
        path = re.search(r"class_path='([\w.]+)'|\(([\w.]+)\)$", text)
        named = (path[1] or path[2]) if path else module[1]
        by = "" if f"{named}.".startswith(f"{module[1]}.") else f", which {named} imports"
        return (
            f"'{key}': no module '{module[1]}'{by}; it is looked for in this folder and installed"
        )
    attribute = re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text)
    if attribute:
        names = [name for name in vars(sys.modules.get(attribute[1], typing)) if name[0] != "_"]
        return (
            f"'{key}': no '{attribute[2]}' in module {attribute[1]}{nearest(attribute[2], names)}"
        )
    value = re.search(
        r"Unexpected import path format: (\S+)|Expected an import path or .*?, but got (\S+)", text
    )
    if value:
        return f"'{key}' must be a class, as Name or module.Name, got {value[1] or value[2]}"
    if base and "Expected an instantiatable class" in text:
        return _needs_class(key, base)
    return None


def _no_class(key: str, base: type | None, files: list[RecipeFile], argv: list[str]) -> str | None:
    """Settings of a class that is named nowhere, or none; of the key or of one in its list."""
    names = (f"--{key}", f"--{key}+", f"--{key}.class_path")
    if base is None or any(arg.partition("=")[0] in names for arg in argv):
        return None
    lines = {line for file in files for line in file.lines if f"{line}.".startswith(f"{key}.")}
    valued = {line for file in files for line in lines if file.scalars.get(line)}
    listed = {line for line in lines if re.fullmatch(rf"{re.escape(key)}\.\d+", line)}
    for place in sorted(listed) or [key]:
        below = [line for line in lines if line.startswith(f"{place}.")]
        only_settings = all(line.startswith(f"{place}.init_args") for line in below)
        if place in lines - valued and only_settings:
            return _needs_class(place, base)
    return None


def _needs_class(key: str, base: type) -> str:
    names = [child.__name__ for child in _subclasses(base) if child.__name__[0] != "_"]
    return f"'{key}' needs a class_path{nearest('', names)}"


def _wrong_setting(text: str, key: str, base: type | None) -> str | None:
    """A class that fits, with a setting that it does not have or needs."""
    unknown = re.search(r"Option '([^']+)' is not accepted", text)
    if unknown:
        owner = _owner(text, base)
        settings = list(inspect.signature(owner).parameters) if owner else []
        of = f" of {owner.__name__}" if owner else f" of '{key}'"
        return f"no setting '{unknown[1]}'{of}{nearest(unknown[1], settings)}"
    # A setting of a group of settings: from a file, or as `--data.source.columns.lable`.
    inside = re.search(r"Group '([^']+)' does not accept option '([^']+)'", text) or re.search(
        r"in [\w.]+: unrecognized arguments: --(\w+)\.(\w+)", text
    )
    if inside:
        group, name = inside[1], inside[2].partition(".")[0]
        near = nearest(name, _settings_of(_owner(text, base), group), f"{group}.")
        return f"no setting '{group}.{name}' of '{key}'{near}"
    unknown = re.search(r"[Uu]nrecognized arguments: --(\S+?)(?:[ =]|$)", text)
    if unknown:
        return f"no setting '{unknown[1]}' of '{key}'"
    no_group = re.search(r"Parser key \"([^\"]+)\": Unable to load config '([^']*)'", text)
    if no_group:
        return f"'{key}': '{no_group[1]}' must be a mapping of settings, got {no_group[2]}"
    missing = re.search(r"the following arguments are required: ([\w.]+(?:, [\w.]+)*)", text)
    return f"'{key}' needs {missing[1].rstrip('.')}" if missing else None


def _wrong_type(text: str, key: str) -> str | None:
    """Say which type a value must have; jsonargparse lists all that it tried, on ten lines."""
    inner, _, complaint = text.rpartition('Parser key "')[2].partition('"')
    listed = re.match(r":\s+Does not validate.*?\[(.*?)\]\n", complaint, re.DOTALL)
    single = re.match(r":\s+Expected an? (<class '[^']+'>|typing\.Literal\[.*?\])", complaint)
    value = re.search(r"(?:Got|Given) value: (.+?)(?:\. Got value: |\n|$)", complaint)
    found = listed or single
    if found is None or value is None or re.search("Callable|Namespace", f"{found[1]}{value[1]}"):
        return None
    names = re.findall(r"<class '(?:[\w.]*\.)?(\w+)'>", found.group(1)) or [
        found.group(1).removeprefix("typing.Literal").strip("[]")
    ]
    if "dict[" in found.group(1):
        names.insert(
            0, "a mapping of lists" if "dict[str, list[" in found.group(1) else "a mapping"
        )
    if "tuple[int, int]" in found.group(1):
        names.insert(0, "two int, as [224, 224]")
    if "float" in names and "Tensor" in names:
        names.remove("Tensor")  # which no recipe can name
    kinds = " or ".join(map(_kind, names))
    place = f"'{key}': '{inner}'" if inner != key else f"'{key}'"
    is_truth = value.group(1) in _YAML_TRUTHS and names == ["str"]
    hint = "; quote what YAML takes for true or false: 'yes', 'no', 'on', 'off'"
    return f"{place} must be {kinds}, got {value.group(1)}{hint if is_truth else ''}"


def _kind(name: str) -> str:
    from cxrignite import recipe

    group = getattr(recipe, name, None)
    if dataclasses.is_dataclass(group):
        return f"a mapping of {', '.join(field.name for field in dataclasses.fields(group))}"
    return "null" if name == "NoneType" else name


def _of_own_code(error: Exception) -> str:
    """Whatever the user's own module raised while it was imported."""
    if isinstance(error, SyntaxError):
        return f"{_beside(error.filename or '?')}:{error.lineno}: {error.msg}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{_beside(last.filename)}:{last.lineno}: {type(error).__name__}: {error}"


def _beside(filename: str) -> str:
    path = Path(filename)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _subclasses(base: type) -> Iterator[type]:
    child: type
    for child in base.__subclasses__():
        yield child
        yield from _subclasses(child)


def _owner(text: str, base: type | None) -> type | None:
    """The class that is named, by its import path or else by its name alone."""
    named = re.findall(r"class_path='?([\w.]+)|in ([\w.]+):|[\"']class_path[\"']: '?([\w.]+)", text)
    wanted = {"".join(groups) for groups in named}
    names = {path.rpartition(".")[2] for path in wanted}
    fits = [each for each in _subclasses(base) if each.__name__ in names] if base else []
    fits.sort(key=lambda each: f"{each.__module__}.{each.__qualname__}" not in wanted)
    return fits[0] if fits else None


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
    given = [arg[2:].partition("=")[0].rstrip("+") for arg in argv if arg.startswith("--")]
    below = [option for option in given if key and option.startswith(f"{key}.")]
    words = re.findall(r"'([\w.]+)'", text) + re.findall(r"^[A-Za-z_][\w.]*", text)
    endings = tuple(f".{word}" for word in words)
    if not key:
        words = words[-1:]  # what is quoted may be anybody's word
        below = [option for option in given if words and _names(option, words[0])]
    if key in given or any(not key or each.endswith(endings) for each in below):
        return ""
    words.sort(key=lambda word: word == key)  # what is inside the complained part is more precise
    for file in reversed(files):
        inside = [each for each in file.lines if each.startswith(key)]
        for word in words:
            for each in inside:
                if word in (file.scalars.get(each), each) or f".{each}".endswith(f".{word}"):
                    return f"{file.path}:{file.lines[each]}: "
        if below:
            return ""
        for begins in (key, words[-1].partition(".")[0] if words else ""):
            if begins in file.lines:
                return f"{file.path}:{file.lines[begins]}: "
    values = {part for arg in argv for part in arg.split("=") if not part.startswith("--")}
    is_options = any(value in text for value in values - {str(file.path) for file in files})
    return f"{files[-1].path}: " if len(files) == 1 and not key and not is_options else ""


def _names(option: str, word: str) -> bool:
    return option.startswith(word) or option.endswith(f".{word}")
