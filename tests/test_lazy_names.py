import ast
import importlib
import pkgutil
import sys
import types
from pathlib import Path

import pytest

import cxrignite.data
import cxrignite.functional
from cxrignite.lazy_names import lazy_names


@pytest.mark.parametrize("package", [cxrignite.data, cxrignite.functional])
def test_every_public_name_is_found(package):
    assert all(getattr(package, name) is not None for name in package.__all__)


@pytest.mark.parametrize("package", [cxrignite.data, cxrignite.functional])
def test_the_lazy_names_are_those_that_a_type_checker_sees(package):
    tree = ast.parse(Path(package.__file__).read_text())
    (lazy,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = [(node.module, each.name) for node in lazy.body for each in node.names]
    mapping = ast.literal_eval(lazy.orelse[0].value.args[1])
    assert imported == [
        (f"{package.__name__}.{module}", name)
        for module, names in mapping.items()
        for name in names.split()
    ]
    # An import of a module would replace the name.
    assert not {each.name for each in pkgutil.iter_modules(package.__path__)} & {
        name for _, name in imported
    }


@pytest.mark.parametrize("package", [cxrignite.data, cxrignite.functional])
def test_an_unknown_name_is_refused(package):
    with pytest.raises(AttributeError, match=package.__name__):
        package.no_such_name  # noqa: B018
    with pytest.raises(ImportError, match="no_such_name"):
        importlib.import_module(f"{package.__name__}.no_such_name")


def test_a_name_is_looked_up_once(monkeypatch):
    package = types.ModuleType("json")
    monkeypatch.setitem(sys.modules, "json", package)
    find = lazy_names("json", {"decoder": "JSONDecoder JSONDecodeError"})
    package.__path__ = importlib.import_module("email").__path__
    monkeypatch.setitem(sys.modules, "json.decoder", types.SimpleNamespace(JSONDecoder="found"))
    assert find("JSONDecoder") == "found"
    assert package.JSONDecoder == "found"
    with pytest.raises(AttributeError, match="'JSONEncoder'"):
        find("JSONEncoder")
