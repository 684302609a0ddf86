"""Self-contained HTML pages, which load nothing."""

from __future__ import annotations

import base64
import html
import re
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

_LOOSE = re.compile(r"(?<=[<>]) (?=\d)|(?<=\d) (?=%)")
_COMMAND = re.compile(r"`([^`]+)`")


def render_page(template: str, **content: object) -> bytes:
    """Fill in a template of this folder; `style`, which all pages share, is added."""
    page = render_part(template, **content, style=Markup(read_asset("page_style.css")))
    # File names that are not UTF-8 hold surrogates, which cannot be written.
    return page.encode(errors="replace")


def render_part(template: str, **content: object) -> Markup:
    """Fill in the template of a part of a page."""
    return Markup(_environment().get_template(template).render(content))


def mark_commands(sentence: str) -> Markup:
    """Mark the commands of a sentence, which the terminal shows in backticks.

    Args:
        sentence: Plain text; a template applies this function as the filter `commands`.

    Examples:
        >>> mark_commands("Run `test` if a < b.")
        Markup('Run <code>test</code> if a &lt; b.')
    """
    return Markup(_COMMAND.sub(r"<code>\1</code>", html.escape(_typeset(sentence))))


def to_data_uri(image: bytes | memoryview, kind: str = "png") -> str:
    """Encode a picture, `png` or `jpeg`, as a data URI."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode('ascii')}"


def read_asset(name: str) -> str:
    """Read a template, style or script of this folder."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(read_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_typeset,
    )
    environment.filters["commands"] = mark_commands
    return environment


def _typeset(value: Any) -> Any:
    """Keep a number and its sign or unit on one line."""
    # Markup, a subclass of str, stays as it is.
    return _LOOSE.sub("\N{NO-BREAK SPACE}", value) if type(value) is str else value
