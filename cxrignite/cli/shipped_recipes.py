"""The recipes that ship with the package; light, so that `recipes list` answers at once."""

from __future__ import annotations

import shutil
from pathlib import Path

from cxrignite.errors import RecipeError, suggestion
from cxrignite.terminal import wrapped

_PACKAGE = Path(__file__).resolve().parent.parent


def recipes_dir() -> Path:
    """Where the recipes lie: inside an installed package, or beside it in a checkout."""
    installed = _PACKAGE / "_recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of all recipes, overlays included (`overlays/smoke`), sorted."""
    root = recipes_dir()
    return sorted(
        path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml")
    )


def recipe_path(name: str) -> Path:
    """The file of a recipe.

    Raises:
        RecipeError: No recipe has this name.
    """
    names = recipe_names()
    stem = name.removesuffix(".yaml")
    if stem not in names:
        raise RecipeError(f"no recipe '{name}'{suggestion(stem, names)}")
    return recipes_dir() / f"{stem}.yaml"


def describe_recipes() -> str:
    """A line a recipe: its name and the first line of its opening comment."""
    names = recipe_names()
    width = max(map(len, names), default=0)
    texts = (recipe_path(name).read_text(encoding="utf-8") for name in names)
    firsts = (text.partition("\n")[0].lstrip("# ") for text in texts)
    lines = zip(names, firsts, strict=True)
    return "".join(f"{wrapped(first, f'{name:<{width}}  ')}\n" for name, first in lines)


def copy_recipe(name: str, folder: Path) -> Path:
    """Copy a recipe into `folder`.

    Raises:
        RecipeError: No recipe has this name, or the file is there already.
    """
    source = recipe_path(name)
    target = folder / source.name
    if target.exists():
        raise RecipeError(f"{target} is there already; move it away first")
    shutil.copyfile(source, target)
    return target
