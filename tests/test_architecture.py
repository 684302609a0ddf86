import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_forked

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "cxrignite").rglob("*.py"))


@pytest.mark.integration
@pytest.mark.usefixtures("_server")
def test_the_floors_hold():
    # Apart, since it disables the loggers of its process.
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    done = run_forked(["-c", program], cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_there_are_sources_to_check():
    assert len(SOURCES) > 30


def test_no_room_is_named_after_nothing():
    nameless = {"utils", "util", "common", "helpers", "helper", "misc", "base", "core"}
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in SOURCES}
    assert not [path for path in SOURCES if nameless & set(parts[path])]


def test_every_public_name_of_a_room_has_a_docstring():
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            public = isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name[0] != "_"
            assert not public or ast.get_docstring(node), f"{path}: {node.name}"


HEAVY = "jsonargparse monai torchvision matplotlib yaml timm"
WITH_TORCH = {
    "cxrignite.handlers": f"{HEAVY} cxrignite.data cxrignite.nn scipy.stats scipy.special "
    "scipy.optimize sklearn tensorboard PIL",
    "cxrignite.engines": f"{HEAVY} torch._dynamo torch._inductor",
    "cxrignite.nn": "ignite jsonargparse monai torchvision matplotlib timm",
    "cxrignite.recipe": "jsonargparse monai torchvision matplotlib timm",
}
WITHOUT_TORCH = {
    "cxrignite.functional": f"torch {HEAVY} ignite scipy.stats sklearn",
    "cxrignite.data": f"torch {HEAVY} ignite scipy.ndimage",
    "cxrignite.data.image_files": f"torch {HEAVY} ignite",
    "cxrignite.data.manifest_table": f"torch {HEAVY} ignite",
    "cxrignite.workflows.predict.exported": f"torch {HEAVY} ignite onnx onnxruntime sklearn",
    "cxrignite.workflows.download.download": "torch ignite monai torchvision matplotlib numpy yaml",
    "cxrignite.cli": "torch ignite monai torchvision matplotlib jsonargparse numpy",
}
# An interpreter that has imported nothing, and then torch alone, forks a process for each module.
IMPORTS = """
import importlib, json, os, sys

def show_imports(modules):
    for module, unwanted in json.loads(modules).items():
        if os.fork() == 0:
            importlib.import_module(module)
            found = sorted(set(unwanted.split()) & set(sys.modules))
            print(json.dumps([module, found]), flush=True)
            os._exit(0)
        os.wait()

show_imports(sys.argv[1])
import torch
show_imports(sys.argv[2])
"""


# What a process with everything imported cannot show.
@pytest.mark.integration
def test_imports_are_light():
    program = [sys.executable, "-c", IMPORTS, json.dumps(WITHOUT_TORCH), json.dumps(WITH_TORCH)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    found = dict(map(json.loads, done.stdout.splitlines()))
    assert found == {module: [] for module in (*WITHOUT_TORCH, *WITH_TORCH)}
