"""What a public signature promises, its docstring explains.

Public is what a room exports and what its classes define without an underscore. Each such callable

- has a docstring of its own and an annotation at every parameter and at its return value;
- names every parameter under `Args`, a class those of its constructor, there or under `Attributes`;
- has `Returns` or `Yields` where it gives anything, unless its summary names what it gives, as that
  of a property does: it begins with one of `NAMES_WHAT_IT_GIVES`;
- lists under `Raises` whatever its own body raises, by its name or that of a base class; a class
  whatever its constructor raises;
- says which shape each tensor or array has that it takes or gives: `(N,)` or `(N, C, H, W)` in
  backticks, `0-d`, or in words that it may have any or has another one's.

A method that overrides one of ours leaves to that one's docstring what it does not say itself.
"""

import ast
import importlib
import inspect
import re
import textwrap
from functools import cached_property
from typing import NamedTuple

import pytest

ROOMS = ("data", "engines", "errors", "functional", "handlers", "nn", "recipe")
SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Examples):$", re.M)
SHAPED = re.compile(r"\b(Tensor|NDArray|ArrayLike|Numbers|Uniforms|Array)\b")
DIMENSION = r"(?:\b(?:n|[A-Z]\w*|num_\w+)\b|\.\.\.|\*size|len\()"
SHAPE = re.compile(rf"`\([^`]*{DIMENSION}[^`]*\)`|\b0-d\b|\b[Aa]ny shape\b|\b[Tt]he same shape\b")
NAMES_WHAT_IT_GIVES = re.compile(
    r"(?:Return|Give|True if|The|An?|One|Share of|Images of|Batches of|Number of) "
)
CONSTRUCTORS = ("__init__", "__post_init__", "__new__")


class Public(NamedTuple):
    """A class or a callable, where it is found and how its docstring is divided."""

    name: str
    item: object
    owner: type | None = None

    @property
    def function(self):
        item = self.item
        if isinstance(item, property | cached_property):
            return item.fget if isinstance(item, property) else item.func
        return getattr(item, "__func__", item)

    @property
    def is_property(self):
        return isinstance(self.item, property | cached_property)

    @property
    def constructors(self):
        """Those of a class that are ours; a dataclass writes its own."""
        found = [
            getattr(vars(base)[each], "__func__", vars(base)[each])
            for base in ours(self.item)
            for each in CONSTRUCTORS
            if each in vars(base)
        ]
        return [each for each in found if each.__module__.startswith(("cxrignite", "namedtuple_"))]

    @property
    def sections(self):
        """The text of each section by name; the summary is the one without a name."""
        found = {}
        for function in (self.function, *self.overridden):
            parts = SECTION.split(inspect.cleandoc(function.__doc__ or ""))
            found = {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))} | found
        return found

    @property
    def overridden(self):
        """The methods of ours, nearest first, that this one stands in for."""
        bases = ours(self.owner)[1:] if self.owner else []
        members = [vars(base).get(self.name.rpartition(".")[2]) for base in bases]
        return [member for member in members if inspect.isfunction(member)]

    def entries(self, *sections):
        """What `name: text` says, by name; a name may have stars."""
        found = {}
        for section in sections:
            for part in re.split(r"^ {4}(?=\S)", self.sections.get(section, ""), flags=re.M)[1:]:
                name, _, text = part.partition(":")
                found[name.lstrip("*").split(" ")[0]] = " ".join(text.split())
        return found

    @property
    def parameters(self):
        """Names and annotations of what it takes, as they are written."""
        if isinstance(self.item, type):
            if not self.constructors:
                return {}
            parameters = inspect.signature(self.item).parameters
        else:
            parameters = inspect.signature(self.function).parameters
        return {
            name: parameter.annotation
            for name, parameter in parameters.items()
            if name not in ("self", "cls")
        }


def ours(kind):
    return [base for base in kind.__mro__ if base.__module__.startswith("cxrignite")]


def exported(room):
    module = importlib.import_module(f"cxrignite.{room}")
    names = getattr(module, "__all__", None) or [
        name
        for name, item in vars(module).items()
        if name[0] != "_" and getattr(item, "__module__", None) == module.__name__
    ]
    return {name: getattr(module, name) for name in names}


def find_public():
    found = {}
    for room in ROOMS:
        for name, item in exported(room).items():
            if inspect.isfunction(item):
                found[item] = Public(f"{room}.{name}", item)
            if not isinstance(item, type):
                continue
            found[item] = Public(f"{room}.{name}", item)
            for base in ours(item):
                for each, member in vars(base).items():
                    is_callable = inspect.isfunction(getattr(member, "__func__", member))
                    is_callable |= isinstance(member, property | cached_property)
                    if is_callable and (each[0] != "_" or each == "__call__"):
                        found[id(member)] = Public(f"{room}.{base.__name__}.{each}", member, base)
    return list({each.name: each for each in found.values()}.values())


PUBLIC = find_public()
CALLABLES = [each for each in PUBLIC if not isinstance(each.item, type)]
CLASSES = [each for each in PUBLIC if isinstance(each.item, type)]


def over(items):
    """Make a check of one of them a test a room."""

    def decorate(check):
        def test(room):
            for public in items:
                if public.name.startswith(f"{room}."):
                    try:
                        check(public)
                    except AssertionError as error:
                        error.add_note(f"of {public.name}")
                        raise

        return pytest.mark.parametrize("room", ROOMS)(test)

    return decorate


def raised_in(function):
    """Names of the exceptions that a function's own body raises."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    names, todo = set(), list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            names.add(ast.unparse(node.exc.func).split(".")[-1])
        todo += ast.iter_child_nodes(node)
    return names


def ancestors(name, function):
    kind = vars(importlib.import_module(function.__module__)).get(name) or vars(
        importlib.import_module("builtins")
    ).get(name)
    return {base.__name__ for base in kind.__mro__} - {"Exception", "BaseException", "object"}


def undocumented_raises(public, function):
    documented = set(public.entries("Raises"))
    return [name for name in raised_in(function) if not documented & ancestors(name, function)]


def is_shaped(annotation):
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return bool(SHAPED.search(re.sub(r"Callable\[.*\]", "", str(text))))


def test_there_is_much_to_check():
    assert len(CLASSES) > 60
    assert len(CALLABLES) > 120
    assert {each.name.split(".")[0] for each in PUBLIC} == set(ROOMS)


@over(PUBLIC)
def test_it_has_a_docstring_of_its_own(public):
    summary = public.sections[""].split("\n")[0]
    assert len(summary) > 8
    assert summary[-1] in ".:"


@over(CALLABLES)
def test_everything_it_takes_and_gives_has_a_type(public):
    signature = inspect.signature(public.function)
    assert signature.return_annotation is not inspect.Signature.empty
    assert [name for name, kind in public.parameters.items() if kind is inspect._empty] == []


@over(PUBLIC)
def test_it_names_everything_that_it_takes(public):
    documented = public.entries("Args", "Attributes")
    assert [name for name in public.parameters if not documented.get(name)] == []


@over(CALLABLES)
def test_it_names_nothing_that_it_does_not_take(public):
    assert [name for name in public.entries("Args") if name not in public.parameters] == []


@over(CALLABLES)
def test_it_says_what_it_gives(public):
    gives = inspect.signature(public.function).return_annotation
    says = public.sections.get("Returns") or public.sections.get("Yields")
    plain = public.is_property or NAMES_WHAT_IT_GIVES.match(public.sections[""])
    assert gives in ("None", None) or says or plain


@over(PUBLIC)
def test_it_lists_what_it_raises(public):
    if isinstance(public.item, type):
        # What a dataclass or a named tuple writes for itself has no source and raises nothing.
        bodies = [each for each in public.constructors if each.__code__.co_filename[0] != "<"]
    else:
        bodies = [public.function]
    assert [name for body in bodies for name in undocumented_raises(public, body)] == []


@over(PUBLIC)
def test_it_says_which_shape_each_array_has(public):
    documented = public.entries("Args", "Attributes")
    vague = [
        name
        for name, annotation in public.parameters.items()
        if is_shaped(annotation) and not SHAPE.search(documented.get(name, ""))
    ]
    if not isinstance(public.item, type):
        gives = inspect.signature(public.function).return_annotation
        where = " ".join(public.sections.get("Returns", public.sections[""]).split())
        vague += ["return"] if is_shaped(gives) and not SHAPE.search(where) else []
    assert vague == []
