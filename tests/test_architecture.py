import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "cxrignite").rglob("*.py"))


def test_the_floors_hold():
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint_imports], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_there_are_sources_to_check():
    assert len(SOURCES) > 30


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_file_is_over_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


def test_no_room_is_named_after_nothing():
    nameless = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core"}
    assert not [path for path in SOURCES if {path.stem, *path.parts} & nameless]


def test_every_public_name_of_a_room_has_a_docstring():
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"
            assert not public or ast.get_docstring(node), f"{path}: {node.name}"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        (
            "import cxrignite.handlers",
            "jsonargparse monai torchvision matplotlib yaml timm cxrignite.data cxrignite.nn "
            "scipy.stats scipy.special scipy.optimize sklearn tensorboard PIL",
        ),
        ("import cxrignite.engines", "jsonargparse monai torchvision matplotlib yaml timm"),
        (
            "import cxrignite.functional",
            "ignite jsonargparse monai torchvision matplotlib yaml scipy.stats sklearn",
        ),
        ("import cxrignite.data", "ignite jsonargparse monai torchvision matplotlib yaml timm"),
        ("import cxrignite.nn", "ignite jsonargparse monai torchvision matplotlib timm"),
        ("import cxrignite.recipe", "jsonargparse monai torchvision matplotlib timm"),
        (
            "import cxrignite.workflows.download",
            "torch ignite monai torchvision matplotlib jsonargparse numpy yaml",
        ),
        ("import cxrignite.cli", "torch ignite monai torchvision matplotlib jsonargparse numpy"),
    ],
)
def test_imports_are_light(statement, unwanted):
    code = f"import sys; {statement}; print(*sorted(set({unwanted.split()!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
