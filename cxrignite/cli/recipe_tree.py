"""Recipe of a command: merged files and options, each value with its file and line."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from cxrignite.cli.shipped_recipes import recipe_names
from cxrignite.errors import RecipeError, nearest, suggestion

# A recipe is a page of text; many more nodes come from expanded anchors (an anchor bomb).
_MAX_NODES = 20_000
_MAX_DEPTH = 20
_MAX_BYTES = 1_000_000
_DATE = "tag:yaml.org,2002:timestamp"
_TAGS = {
    f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")
}
# Explanations of YAML's own messages.
_YAML_HINTS = {
    "U+0000": "the file is UTF-16 or not text; save it as UTF-8",
    "mapping values are not allowed": (
        "a space after a colon, or a quote, is missing above, or this line is indented too far"
    ),
    "'\\t'": "this line is indented with a tab; use spaces",
    "expected <block end>": "the indentation of this line differs from the lines it belongs to",
    "could not find expected ':'": "a colon and a space are missing",
    "unknown escape": "a backslash starts an escape; write paths with / or in single quotes",
    "expected ',' or": "a comma or a bracket is missing here or above",
}
CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")


@dataclasses.dataclass(frozen=True)
class Node:
    """Value and its place.

    Attributes:
        value: A scalar, or a mapping or list of nodes.
        place: Prefix of its errors, such as `recipe.yaml:3: `; empty for the command line.
        inherited: True if an earlier recipe set it for another class.
    """

    value: Any
    place: str = ""
    inherited: bool = False

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.value, dict):
            return {name: child.plain() for name, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def error(self, text: str) -> RecipeError:
        """Return an error at this place."""
        return RecipeError(f"{self.place}{text}")

    def get(self, name: str) -> Node | None:
        """Return the node of a key; None if there is none."""
        return self.value.get(name) if isinstance(self.value, dict) else None

    def below(self, key: str = "") -> Iterator[tuple[str, Node]]:
        """Yield every node with its dotted key, this one first."""
        yield key, self
        children = dict(enumerate(self.value)) if isinstance(self.value, list) else self.value
        for name, child in children.items() if isinstance(children, dict) else ():
            yield from child.below(f"{key}.{name}" if key else str(name))

    def place_of(self, name: str) -> str:
        """Return the place of the last key that ends with `name`, or of its group.

        It is empty if a part of the value comes from an option.
        """
        while name:
            found = [node for key, node in self.below() if f".{key}".endswith(f".{name}")]
            if found:
                options = any(not node.place for _, node in found[-1].below())
                return "" if options else found[-1].place
            name = name.rpartition(".")[0]
        return ""


def read_recipe_file(path: Path) -> Node:
    """Read a recipe, and refuse mistakes that YAML accepts silently.

    Raises:
        RecipeError: The file is missing, too large, not valid YAML or not a mapping, or it has a
            YAML tag, a date, or a key twice.
    """
    try:
        _check_size(path)
        node = _read(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        if isinstance(error, FileNotFoundError):
            reason = f"no such file{_intended(path)}"
        raise RecipeError(f"{path}: cannot read this recipe: {reason}") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else f"{path}"
        problem = getattr(error, "problem", None) or "nested too deeply"
        if isinstance(error, yaml.reader.ReaderError):
            problem = f"the character U+{error.character:04X} is not allowed"
        hint = next((f"; {hint}" for words, hint in _YAML_HINTS.items() if words in problem), "")
        raise RecipeError(f"{place}: not valid YAML: {problem}{hint}") from error
    if not isinstance(node.value, dict):
        raise RecipeError(f"{path}: a recipe must be a mapping of keys to values")
    return node


def read_text(text: str, place: str = "") -> Node:
    """Read a mapping or a list in one value, as in `--data.image_size '[64, 64]'`.

    Other text stays as it is.
    """
    try:
        return _read(text, place) if text.lstrip().startswith(("{", "[")) else Node(text, place)
    except (yaml.YAMLError, RecursionError):
        return Node(text, place)


def _read(text: str, path: Path | str) -> Node:
    """Read YAML from a file, or from one value, whose place is then given instead of a path."""
    loader = yaml.SafeLoader(text)
    num_nodes = 0

    def build(node: yaml.Node, key: str, line: int) -> Node:
        nonlocal num_nodes
        num_nodes += 1
        place = f"{path}:{line}: " if isinstance(path, Path) else path
        made = Node(None, place)
        if key.count(".") > _MAX_DEPTH:
            raise made.error(f"a recipe must be at most {_MAX_DEPTH} levels deep")
        if num_nodes > _MAX_NODES:
            raise made.error(f"a recipe must have under {_MAX_NODES} keys and values")
        if node.tag == _DATE and isinstance(path, Path):
            raise made.error(f"YAML reads '{node.value}' as a date: put '{key[1:]}' in quotes")
        if node.tag not in {*_TAGS, _DATE}:
            raise made.error(f"a recipe must have no YAML tags, got '{node.tag}'")
        if isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            return Node([build(each, f"{key}.{i}", _line(each)) for i, each in items], place)
        if not isinstance(node, yaml.MappingNode):
            try:
                return Node(loader.construct_object(node), place)
            except ValueError:  # `!!int one`
                return Node(node.value, place)
        children: dict[str, Node] = {}
        lines: dict[str, int] = {}
        for name_node, child in node.value:
            name, line = str(name_node.value), _line(name_node)
            inner = f"{key}.{name}"
            if name in lines:
                again = f"duplicate key '{inner[1:]}', first in line {lines[name]}"
                raise RecipeError(f"{path}:{line}: {again}")
            lines[name] = line
            children[name] = build(child, inner, line)
        return Node(children, place)

    try:
        root = loader.get_single_node()
        return Node(None) if root is None else build(root, "", 1)
    finally:
        loader.dispose()


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line


def _check_size(path: Path) -> None:
    """Refuse a device, a pipe, or a file too large for a recipe."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise RecipeError(f"{path}: a recipe must be a regular file, got a device or a pipe")
    if status.st_size > _MAX_BYTES:
        raise RecipeError(
            f"{path}: a recipe must be under {_MAX_BYTES} bytes, got {status.st_size}"
        )


def _intended(path: Path) -> str:
    """Return a hint at the file that the user probably meant."""
    name = path.with_suffix("")
    if str(name) in recipe_names():
        return f"; `cxrignite recipes copy {name}` creates {name.name}.yaml"
    others = {each.stem: each for each in path.parent.glob("*.y*ml")}
    near = nearest(path.stem, [*others])
    return f"; did you mean '{others[near]}'?" if near else ""


def lay_over(base: Node | None, over: Node) -> Node:
    """Merge a recipe, or a part of one, over another, by the rules of jsonargparse.

    Mappings are merged key by key, a list replaces a list, and `key+` appends to it. Settings of an
    earlier class are kept and marked as inherited.
    """
    if base is None or base.value is None:
        base = Node({}, over.place) if isinstance(over.value, dict) else over
    lower, upper = base.value, over.value
    if isinstance(lower, list) and isinstance(upper, dict) and lower:
        return Node([*lower[:-1], lay_over(lower[-1], over)], base.place)
    if isinstance(upper, str) and isinstance(lower, dict) and {*lower} & {*CLASS_KEYS}:
        upper = {"class_path": over}
    if isinstance(lower, str) and isinstance(upper, dict):
        lower = {"class_path": base}
    if not isinstance(lower, dict) or not isinstance(upper, dict):
        return over
    merged = dict(lower)
    if _names_another_class(lower, upper) and "init_args" in lower:
        settings = lower["init_args"]
        kept = {
            name: dataclasses.replace(child, inherited=True)
            for name, child in (settings.value or {}).items()
        }
        merged["init_args"] = Node(kept, settings.place)
    for name, child in upper.items():
        earlier = merged.get(name.removesuffix("+"))
        if name.endswith("+"):
            before = earlier.value if earlier and isinstance(earlier.value, list) else []
            added = child.value if isinstance(child.value, list) else [child]
            merged[name[:-1]] = Node([*before, *added], child.place)
        else:
            merged[name] = lay_over(earlier, child)
    return Node(merged, over.place or base.place)


def _names_another_class(lower: dict[str, Node], upper: dict[str, Node]) -> bool:
    paths = [each["class_path"].value for each in (lower, upper) if "class_path" in each]
    return len({str(path).rpartition(".")[2] for path in paths}) == 2


def option_node(name: str, text: str, class_keys: Iterable[str]) -> Node:
    """Return an option as part of a recipe; `--optimizer.lr` is a setting below `init_args`."""
    key = name.removesuffix("+")
    owner = next((each for each in class_keys if f"{key}.".startswith(f"{each}.")), None)
    parts = key.split(".")
    if owner not in (None, key) and parts[num := owner.count(".") + 1] not in CLASS_KEYS:
        parts.insert(num, "init_args")
    if name.endswith("+"):
        parts[-1] += "+"
    node = read_text(text) if owner == key or name.endswith("+") else Node(text)
    for part in reversed(parts):
        node = Node({part: node})
    return node


def options_of(
    argv: Sequence[str],
    flags: Collection[str],
    listed: Collection[str],
    known: Collection[str],
    class_keys: Iterable[str],
) -> list[tuple[str, list[str]]]:
    """Split a command line into its options, each with its values.

    Args:
        argv: The arguments after the command.
        flags: Options without a value.
        listed: Options with one or more values.
        known: All options except the settings of classes.
        class_keys: Keys that take a class, whose settings may follow.

    Raises:
        RecipeError: An argument is no option, or an option is unknown or has no value.
    """
    options: list[tuple[str, list[str]]] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            is_recipe = word.endswith((".yaml", ".yml"))
            hint = f"; give a recipe with --config {word}" if is_recipe else ""
            raise RecipeError(f"'{word}' is not an option{hint}")
        is_known = word == "-h" or name.removesuffix("+") in known or name.endswith(".help")
        is_setting = any(name.startswith(f"{each}.") for each in class_keys)
        if not (word.startswith("--") or word == "-h") or not (is_known or is_setting):
            shown = word.partition("=")[0]
            near = suggestion(name.removesuffix("+"), known, "--", lists=False)
            raise RecipeError(f"unknown option '{shown}'{near}")
        values = [value] if equals else []
        if not equals and name not in (*flags, "h") and not name.endswith(".help"):
            if words[:1] == ["="]:
                raise RecipeError(
                    f"spaces around '=' are not allowed; write {word}={''.join(words[1:2])}"
                )
            while words and not words[0].startswith("--") and (not values or name in listed):
                values.append(words.pop(0))
            if not values:
                hint = ": a recipe file" if name == "config" else ""
                raise RecipeError(f"{word} needs a value{hint}")
        elif name.endswith(".help") and words and not words[0].startswith("-"):
            words.pop(0)
        options.append((name, values))
    return options
