"""The pages' own promises: their Python runs, their command lines parse, their links lead on."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ignite.engine import Engine

from cxrignite import cli, verbs
from cxrignite.parsing import parse_recipe
from cxrignite.workflows.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
# By docs/generate.py, when the site is built; test_reference.py is about them.
GENERATED = [
    ROOT / "docs/reference" / name for name in ("cli.md", "recipe.md", "recipe.schema.json")
]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(set((ROOT / "docs").rglob("*.md")) - set(GENERATED)),
]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
VERBS = "|".join(verbs.VERBS)


class Reached(Exception):
    """The command line was understood: here the work would begin."""


def text_of(page):
    return page.read_text(encoding="utf-8")


def blocks(language):
    return [
        pytest.param(block, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, (found, block) in enumerate(FENCED.findall(text_of(page)))
        if found == language
    ]


def command_lines():
    """Those of the plain blocks, and whole ones inside a sentence; each once.

    Those of the guide to one's own films are run for real, by `test_guide.py`, and those of the
    examples by `test_examples.py`.
    """
    found = []
    for page in PAGES:
        if page.name == "your-data.md" or "examples" in page.parts:
            continue
        for language, block in FENCED.findall(text_of(page)):
            if not language:
                lines = block.replace("\\\n", " ").splitlines()
                found += [part for line in lines for part in line.split("&&")]
        prose = FENCED.sub("", text_of(page))
        found += re.findall(r"`([^`]+)`", prose)
    launched = r"(?:(?:torchrun .*-m |srun (?:-\S+ )*)?(?:python -m )?cxrignite (?=\w)"
    pattern = re.compile(rf"{launched}|(?=(?:{VERBS}) --run ))(.*)")
    matches = [pattern.fullmatch(" ".join(each.partition(" #")[0].split())) for each in found]
    return sorted({match[1] for match in matches if match})


def links():
    return [
        pytest.param(page, target, id=f"{page.stem}-{target}")
        for page in PAGES
        for target in re.findall(r"\]\(([^)]+)\)", FENCED.sub("", text_of(page)))
        if "://" not in target
    ]


@pytest.fixture
def run_until_work_begins(monkeypatch):
    """Run a command line for real, up to the call that would read, train or write."""

    def reached(*args, **kwargs):
        raise Reached

    def recipe_of(folder):
        own = ROOT / "recipes" / f"{folder.root.name}.yaml"
        return own if own.is_file() else ROOT / "recipes" / "baseline_cnn.yaml"

    for work in (
        *("fit.fit", "score.score", "recalibrate.recalibrate", "compare.compare_runs"),
        *("report.write_report", "shipped.copy_recipe", "benchmark.benchmark"),
        *("explain.explain", "explain.explain_files", "audit.audit"),
        *("predict.predict", "download.arguments.download"),
    ):
        monkeypatch.setattr(f"cxrignite.workflows.{work}", reached)
    monkeypatch.setattr(RunFolder, "finished_recipe", recipe_of)
    monkeypatch.chdir(ROOT)

    def run(line):
        try:
            return cli.run(shlex.split(line))
        except Reached:
            return 0

    return run


def test_every_kind_of_promise_is_found():
    assert len(blocks("python")) >= 4
    assert len(blocks("yaml")) >= 2
    assert len(links()) >= 10
    verbs = {line.split()[0] for line in command_lines()}
    assert verbs >= {"fit", "test", "recalibrate", "compare", "report", "recipes"}


def read_apart(recipes, *options, parts, folder):
    """What `fit` makes of recipes and of the reader's own classes, in a process of its own.

    A class that was once defined is offered to every later test that errs.
    """
    files = [word for recipe in recipes for word in ("--config", str(recipe))]
    return subprocess.run(
        [sys.executable, "-m", "cxrignite", "fit", *files, *options, "--print_config"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(parts)])},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


def classes_of_pages():
    """Each class that a page defines, with the module by which a recipe there names it."""
    for page in PAGES:
        for language, block in FENCED.findall(text_of(page)):
            defined = re.search(r"^class (\w+)", block, re.M)
            if language == "python" and defined:
                module = re.search(rf"\b(my_\w+)\.{defined[1]}\b", text_of(page))[1]
                yield pytest.param(block, module, defined[1], id=defined[1])


def runs_alone(block):
    """Classes go into recipes, below; what reads a run is for `test_commands.py`, which has one."""
    return not re.search(r"^class |\"runs/", block, re.M)


def test_one_page_alone_has_python_that_reads_a_run():
    others = [each.id for each in blocks("python") if '"runs/' in each[0][0]]
    assert [name.rpartition("-")[0] for name in others] == ["predict"]


@pytest.mark.parametrize("block", [each for each in blocks("python") if runs_alone(each[0][0])])
def test_a_python_block_runs(block):
    engines = {name: Engine(lambda engine, batch: None) for name in ("trainer", "evaluator")}
    exec(compile(block, "block", "exec"), engines)  # the engines are the reader's own


@pytest.mark.parametrize(("block", "module", "name"), [*classes_of_pages()])
def test_a_class_of_a_page_may_be_named_in_a_recipe(block, module, name, tmp_path):
    (tmp_path / f"{module}.py").write_text(block, encoding="utf-8")
    options = {
        "Overfitting": ["--trainer.handlers", f"[EpochTimer, {module}.{name}]"],
        "MaskedFolders": ["--data.source", f"{module}.{name}", "--data.source.root", "films"],
    }[name]
    recipe = ROOT / "recipes" / "quickstart.yaml"
    read = read_apart([recipe], *options, parts=tmp_path, folder=tmp_path)
    assert read.returncode == 0, read.stderr
    assert f"class_path: {module}.{name}" in read.stdout


@pytest.mark.parametrize("block", blocks("yaml"))
def test_a_yaml_block_may_be_laid_over_a_recipe(block, tmp_path):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(block, encoding="utf-8")
    recipe = ROOT / "recipes" / "resnet50.yaml"
    if "my_parts." in block:  # what a page calls yours
        parts = ROOT / "docs" / "examples" / "own_model"
        read = read_apart([recipe, overlay], parts=parts, folder=tmp_path)
        assert read.returncode == 0, read.stderr
    else:
        parse_recipe("fit", "", ["--config", str(recipe), "--config", str(overlay)])


@pytest.mark.parametrize("block", [*blocks("bash"), *blocks("sh")])
def test_a_shell_block_is_one_that_bash_can_read(block):
    # Loops over runs, clusters and downloads: what they call is executed by test_commands.py.
    read = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=60)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize("line", command_lines())
def test_a_command_line_is_understood(line, run_until_work_begins, capsys):
    assert run_until_work_begins(line) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        "tset --run runs/quickstart",
        "test --run runs/quickstart --threshold 0.5",
        "test --run runs/quickstart --data.source.rot DIR --name site",
        "recalibrate --run runs/baseline_cnn --name site-a --data.source.root DIR --share 0.7",
        "fit --config recipes/quickstart.yaml --data.calibration 0.2",
        "fit --config recipes/nowhere.yaml",
        "compare RUN RUN --csv FILE",
        "report RUN",
    ],
)
def test_a_wrong_command_line_would_be_found(line, run_until_work_begins):
    assert run_until_work_begins(line) == 2


@pytest.mark.parametrize(("page", "target"), links())
def test_a_link_inside_the_project_leads_somewhere(page, target):
    path, _, anchor = target.partition("#")
    destination = (page.parent / path).resolve() if path else page
    if destination in GENERATED:
        return
    assert destination.exists()
    if anchor:
        titles = re.findall(r"^#+ (.*)$", FENCED.sub("", text_of(destination)), re.M)
        plain = [re.sub(r"[^\w\- ]", "", title.lower()) for title in titles]
        assert anchor in [title.replace(" ", "-") for title in plain]


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_the_readme_names_every_verb(verb):
    assert f"`{verb}`" in text_of(ROOT / "README.md")


@pytest.mark.parametrize("room", ["data", "engines", "functional", "handlers", "nn"])
def test_every_public_name_of_a_room_is_in_the_changelog_and_the_reference(room):
    changes = text_of(ROOT / "CHANGELOG.md")
    names = importlib.import_module(f"cxrignite.{room}").__all__
    assert [name for name in names if not re.search(rf"`{name}\b", changes)] == []
    assert f"::: cxrignite.{room}\n" in text_of(ROOT / f"docs/reference/api/{room}.md")
