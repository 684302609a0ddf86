"""Pages of the reference that are written from the code: the command line, the recipe, its schema.

MkDocs calls `on_pre_build` before it reads the pages (`hooks` in `mkdocs.yml`). For a builder
without hooks: `python docs/generate.py`. The pages are never committed.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxrignite import cli
from cxrignite.cli.commands import COMMANDS
from cxrignite.cli.parsing import recipe_json_schema

REFERENCE = Path(__file__).resolve().parent / "reference"
_HELP_WIDTH = "84"  # columns that fit beside the navigation
# Where the help of a command that takes a whole recipe begins to name its keys.
_KEYS_BEGIN = re.compile(r"^(One experiment|What is learnt from):$", re.M)
_TAKE_RECIPE = ("audit", "fit", "benchmark")
_HIDDEN = "+"  # `handlers+` appends to `handlers`: told once, in the page's first lines
# From a base to what it is called in the page, and the keys that take it.
_TITLES = {
    "Source": "Sources of images",
    "Transform": "Transforms",
    "BatchAugment": "Batch augmentation",
    "Sampler": "Samplers",
    "BinaryClassifier": "Models",
    "Optimizer": "Optimizers",
    "Loss": "Losses",
    "LRScheduler": "Learning-rate schedulers",
    "Attachable": "Handlers",
}


def on_pre_build(config: Any) -> None:
    """MkDocs asks for the pages before it looks which there are."""
    logging.getLogger("mkdocs.plugins.cxrignite").info("Writing the reference from the code")
    write_reference(REFERENCE)


def write_reference(folder: Path) -> None:
    """Write the pages; one that would be the same stays, so that a server does not build again."""
    schema = recipe_json_schema()
    pages = {
        "cli.md": cli_page(),
        "recipe.md": recipe_page(schema),
        "recipe.schema.json": json.dumps(schema, indent=1) + "\n",
    }
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def cli_page() -> str:
    """What `--help` says of each command."""
    lines = [
        "# The command line",
        "",
        "`cxrignite VERB ...` and `python -m cxrignite VERB ...` are the same. What follows is "
        "what `--help` says of each command, written by the parser. Any key of a recipe may be an "
        "option, such as `--trainer.max_epochs 3`; [The recipe](recipe.md) has them all. What "
        "the codes mean to a script is in [Exit codes](exit-codes.md).",
        "",
        "| command | does |",
        "| --- | --- |",
        *(f"| [`{command}`](#{command}) | {_cell(what)} |" for command, what in COMMANDS.items()),
    ]
    for command in COMMANDS:
        text = _help_of(command)
        if command in _TAKE_RECIPE:
            found = _KEYS_BEGIN.search(text)
            assert found is not None, f"the help of {command} names no key of a recipe"
            keys, epilog = "... and the keys of a recipe\n", text[text.index("\nexit codes:") :]
            text = text[: found.start()] + keys + epilog
        lines += ["", f"## {command}", "", "```text", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _help_of(command: str) -> str:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _HELP_WIDTH
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            code = cli.run([command, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    assert code == 0, f"`{command} --help` ended with {code}"
    return said.getvalue()


def recipe_page(schema: Mapping[str, Any]) -> str:
    """Every key of a recipe, and every class of this package that a key may name."""
    lines = [
        "# The recipe",
        "",
        "Every key, written from the types that read it. [Write a recipe](../guides/recipes.md) "
        "says how they are used. A key of a list may have a `+` behind its name, and then appends "
        "to the list of an earlier recipe. The same as a JSON schema, for editors: "
        "[`recipe.schema.json`](recipe.schema.json).",
    ]
    groups: list[tuple[str, Mapping[str, Any]]] = [("", schema)]
    for key, value in schema["properties"].items():
        if value.get("type") == "object" and "properties" in value:
            groups.append((key, value))
    inner = {key for key, _ in groups}
    for prefix, group in groups:
        lines += ["", f"## `{prefix}`" if prefix else "## The recipe's own keys", ""]
        lines += [group["description"], ""] if prefix else []
        keys = [key for key in group["properties"] if prefix or key not in inner]
        lines += _table(
            {key: group["properties"][key] for key in keys}, f"{prefix}." * bool(prefix)
        )
    lines += ["", "## Classes", "", *_about_classes(schema["$defs"])]
    for base, title in _TITLES.items():
        lines += ["", f"### {title}", "", *_classes(schema["$defs"][base])]
    return "\n".join(lines) + "\n"


def _about_classes(bases: Mapping[str, Any]) -> Iterator[str]:
    assert set(bases) == set(_TITLES), f"a base without a title: {set(bases) ^ set(_TITLES)}"
    yield (
        "What a key with a `class_path` may name; a function that one of them asks for goes by its "
        "import path, too. Classes of this package stand here with their "
        "settings; of those of torch and MONAI `cxrignite fit --optimizer.help AdamW` tells more. "
        "A class of your own goes by its import path, `package.module.Class`."
    )


def _classes(base: Mapping[str, Any]) -> Iterator[str]:
    names, *others = base["anyOf"]
    ours = {kind.__name__ for kind in _our_classes()}
    known = {each["properties"]["class_path"].get("const"): each for each in others[1:]}
    for name in names["enum"]:
        if name in ours:
            settings = known[name]["properties"]["init_args"]["properties"]
            yield from (f"#### `{name}`", "", known[name]["description"], "")
            yield from _table(settings) if settings else ["It has no settings."]
            yield ""
    foreign = [f"`{name}`" for name in names["enum"] if name not in ours]
    if foreign:
        beside = "Of torch: " if ours & set(names["enum"]) else ""
        yield f"{beside}{', '.join(foreign)}."


def _our_classes() -> Iterator[type]:
    import cxrignite.data
    import cxrignite.handlers
    import cxrignite.nn

    for room in (cxrignite.data, cxrignite.handlers, cxrignite.nn):
        yield from (kind for kind in vars(room).values() if isinstance(kind, type))


def _table(properties: Mapping[str, Any], prefix: str = "") -> list[str]:
    rows = list(_rows(properties, prefix))
    return ["| key | value | default | |", "| --- | --- | --- | --- |", *rows]


def _rows(properties: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in properties.items():
        if key.endswith(_HIDDEN):
            continue
        default = f"`{_plain(value['default'])}`" if "default" in value else ""
        text = _cell(value.get("description", ""))
        yield f"| `{prefix}{key}` | {_cell(_values(value))} | {_cell(default)} | {text} |"
        for group in (value, *value.get("anyOf", ())):
            if "properties" in group:
                yield from _rows(group["properties"], f"{prefix}{key}.")


def _values(schema: Mapping[str, Any]) -> str:
    """What may be written there, in words."""
    if "$ref" in schema:
        title = _TITLES[schema["$ref"].rpartition("/")[2]]
        return f"one of [{title.lower()}](#{title.lower().replace(' ', '-')})"
    if "enum" in schema:
        return ", ".join(f"`{_plain(value)}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_values, schema["anyOf"])))
    if "prefixItems" in schema:
        return f"`[{', '.join(map(_values, schema['prefixItems']))}]`"
    kind = schema.get("type", "anything")
    if kind == "array":
        return f"list of {_values(schema['items'])}" if schema["items"] else "list"
    if kind == "object":
        return "keys below" if "properties" in schema else "mapping"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    write_reference(REFERENCE)
