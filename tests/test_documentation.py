"""Each command line and code block of the README, the pages and the examples, executed once.

A page begins in a folder of its own, with the recipes that ship, images where the recipes look, and
the finished runs that its lines take for granted. What a page says is what runs; only the size of
things is laid under it, by an overlay behind the page's recipe. A line that stands on several pages
is executed for the first of them.
"""

import csv
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import timm
import torch
from forked import run_forked
from ignite.engine import Engine
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from results import finding
from results import point as stored_point

from cxrignite import cli
from cxrignite.cli import commands as commands
from cxrignite.cli.parsing import parse_recipe
from cxrignite.data import Phantom
from cxrignite.runs.run_folder import RunFolder

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(path for path in (ROOT / "docs" / "examples").iterdir() if path.is_dir())
# By docs/generate.py, when the site is built; test_reference.py is about them.
GENERATED = {ROOT / "docs/reference/cli.md", ROOT / "docs/reference/recipe.md"}
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted(set((ROOT / "docs").rglob("*.md")) - GENERATED),
]
OWN_IMAGES = ROOT / "docs/guides/your-data.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
CLASS = re.compile(r"^class (\w+)", re.M)


def fenced(page, language):
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    return [block for found, block in FENCED.findall(text) if found == language]


def blocks(language):
    """The blocks of all pages in a language, each once."""
    found = {
        block: f"{page.stem}-{number}"
        for page in reversed(PAGES)
        for number, block in enumerate(fenced(page, language))
    }
    return [pytest.param(block, id=name) for block, name in reversed(found.items())]


# Commands

NOT_EXECUTED = {
    r"pip install .*": "CI installs the package and its wheel",
    r"tensorboard .*": "a server, which test_tensorboard.py starts",
    r"ssh .*": "another machine",
    r"python -m monai\.bundle .*": "needs a bundle's folder; workflows/test_bundle.py does it",
    r"torchrun .*": "eight processes; tests of two are in workflows/",
    r".*cxrignite download .*": "1.2 GB; workflows/test_download.py has a server",
    r".*pytest( .*)?|pre-commit .*|mkdocs .*|\.ci/.*": "tests and builds of the library itself",
}
OVERLAYS = {
    "quickstart": "data: {source: {init_args: {num_train: 480, num_test: 60, size: 40}}}\n"
    "model: {init_args: {width: 4}}",
    "baseline_cnn": "model: {init_args: {width: 4, stride: 8}}",
    "resnet50": "model: {init_args: {arch: mobilenet_v3_small, weights: null}}\n"
    "trainer: {epoch_length: 2}",
    "efficientnet_lite0": "trainer: {epoch_length: 2}",
}
SMALL = """
data: {image_size: [32, 32], num_workers: 0}
trainer: {max_epochs: 1, device: cpu}
explain: {max_images: 1, num_measured: 4}
"""
OPTIONS = {"benchmark": "--num_steps 2 --repeats 1"}
# The reader's own in a page, and what a folder of the tests has for it.
STANDS_FOR = {"DIR": "data/chest_xray", "FILE": "weights/tf_efficientnet_lite0_imagenet.pt"}
# The size and number of another site's images; the epochs of a run that is resumed for longer.
STANDS_FOR |= {"192": "40", "400": "240", "12": "2"}
# Executed first, for all the pages that begin with them.
FIRST = [
    f"python -m cxrignite {line}"
    for name in ("quickstart", "baseline_cnn")
    for line in (f"fit --config recipes/{name}.yaml", f"test --run runs/{name}")
]
AUDIT = "python -m cxrignite audit"
EXIT_CODES = {  # small synthetic images look so alike that an audit finds some twice
    f"{AUDIT} --config recipes/resnet50.yaml": 3,
    f"{AUDIT} --config recipes/resnet50.yaml --fail_on problem shift": 3,
    f"{AUDIT} --config recipes/baseline_cnn.yaml": 3,
    f"{AUDIT} --data.source ClassFolders --data.source.root data/chest_xray": 3,
}


def lines_of(page):
    """The command lines of a page's plain blocks."""
    lines = [line.partition(" #")[0] for block in fenced(page, "") for line in block.splitlines()]
    return [" ".join(part.split()) for line in lines for part in line.split(" && ") if part]


def is_executed(line):
    return not any(re.fullmatch(pattern, line) for pattern in NOT_EXECUTED)


def executed_lines():
    """The lines of each page that no page before it has."""
    pages, seen = {}, set()
    for page in PAGES:
        if page == OWN_IMAGES or page.parent.parent == ROOT / "docs" / "examples":
            continue  # followed as a whole below
        lines = list(filter(is_executed, lines_of(page)))
        if new := [line for line in lines if line not in seen]:
            pages[page.relative_to(ROOT).as_posix()] = new
        seen.update(lines)
    return pages


EXECUTED = executed_lines()
# No guide: its lines are those of other pages, with larger networks.
SLOW = {"docs/results.md": [pytest.mark.slow]}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    """A folder with recipes, images and weights, and the runs that a page may begin with."""
    home = tmp_path_factory.mktemp("furnished")
    shutil.copytree(ROOT / "recipes", home / "recipes")
    for name, overlay in {"all": SMALL, **OVERLAYS}.items():
        (home / f"small-{name}.yaml").write_text(overlay, encoding="utf-8")
    records = Phantom(
        home / "phantom",
        num_train=420,
        num_test=40,
        size=40,
        positive_fraction=0.3,  # 42 negative patients for a certificate
        images_per_patient=1,
    ).records()
    for number, record in enumerate(records):
        name = f"person{number}_virus_1" if record.label else f"IM-{number:04}-0001"
        path = home / "data/chest_xray" / record.split / ("NORMAL", "PNEUMONIA")[record.label]
        path.mkdir(parents=True, exist_ok=True)
        with Image.open(home / "phantom" / record.path) as image:
            image.save(path / f"{name}.jpeg", quality=95)
    shutil.rmtree(home / "phantom")
    (home / "weights").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for line in FIRST:
            assert execute(line) == 0, line
        # One run of a light network is as good to compare as another.
        shutil.copytree("runs/baseline_cnn", "runs/resnet50")
        (home / "runs").rename(home / "finished")
        shutil.move(home / "finished" / "cache", home / "runs" / "cache")
        new = sorted((home / "data/phantom/test").rglob("*.png"))
        with (home / "ward.csv").open("w", newline="") as file:
            rows = [[path.relative_to(home), path.stem] for path in new]
            csv.writer(file).writerows([["file", "person"], *rows])
    return home


@pytest.fixture
def home(furnished, tmp_path, monkeypatch):
    home = tmp_path / "home"
    shutil.copytree(furnished, home, copy_function=os.link)
    monkeypatch.chdir(home)
    return home


def execute(line):
    """Run a line of a page here; its exit code."""
    words = [STANDS_FOR.get(word, word) for word in shlex.split(line)]
    assert "cxrignite" in words, f"neither executed nor exempt: {line}"
    command, *arguments = words[words.index("cxrignite") + 1 :]
    recipes = [at for at, word in enumerate(arguments) if word == "--config"]
    if recipes:
        name, behind = Path(arguments[recipes[0] + 1]).stem, recipes[-1] + 2
        small = f"--config small-all.yaml --config small-{name}.yaml {OPTIONS.get(command, '')}"
        arguments[behind:behind] = shlex.split(small)
    return cli.run([command, *arguments])


def prepare(line, home):
    """Bring runs that a line reads and its page has not made; clear away the one that it makes."""
    runs = re.findall(r"runs/(\w+)", line)
    if " fit " in line and "--resume" not in line:
        [name] = runs or re.findall(r"recipes/(\w+)\.yaml", line)[:1]
        shutil.rmtree(home / "runs" / name, ignore_errors=True)  # of another line that was offered
        runs = [name] if line in FIRST else []
    for name in runs:
        if (home / "finished" / name).exists() and not (home / "runs" / name).exists():
            shutil.copytree(home / "finished" / name, home / "runs" / name)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=SLOW.get(page, [])) for page in EXECUTED]
)
def test_every_command_of_a_page_does_what_it_says(page, home, capsys):
    for line in EXECUTED[page]:
        if " FILE" in line:
            weights = timm.create_model("tf_efficientnet_lite0").state_dict()
            torch.save(weights, home / STANDS_FOR["FILE"])
        prepare(line, home)
        code = 0 if line in FIRST else execute(line)
        assert code == EXIT_CODES.get(line, 0), f"{line}\n{capsys.readouterr().err}"


def test_what_is_not_executed_has_a_reason_that_is_still_needed():
    lines = [line for page in PAGES for line in lines_of(page)]
    for pattern in NOT_EXECUTED:
        assert any(re.fullmatch(pattern, line) for line in lines), f"{pattern} exempts nothing"
    assert set(FIRST) <= set(lines)
    assert {"docs/guides/grad-cam.md", "docs/guides/operating-point.md"} <= set(EXECUTED)


def test_a_line_that_a_page_gets_wrong_is_found(home):
    assert execute("python -m cxrignite fit --config recipes/quickstart.yaml --mode.width 4") == 2
    assert execute("python -m cxrignite test --run runs/nowhere") == 2
    with pytest.raises(AssertionError, match=r"train\.py"):
        execute("python train.py")


class Reached(Exception):
    """The command line was understood: here the work would begin."""


@pytest.fixture
def understand(monkeypatch):
    """Run a command line for real, up to the call that would read, train or write."""

    def reached(*args, **kwargs):
        raise Reached

    def recipe_of(folder):
        own = ROOT / "recipes" / f"{folder.root.name}.yaml"
        return own if own.is_file() else ROOT / "recipes" / "baseline_cnn.yaml"

    for work in (
        "workflows.cross_validate.cross_validate",  # first: it imports `fit` as it is
        *("workflows.fit.fit", "workflows.score.score", "workflows.recalibrate.recalibrate"),
        *("workflows.compare.compare", "workflows.benchmark.benchmark.benchmark"),
        *("workflows.explain.explain.explain", "workflows.explain.explain.explain_files"),
        *("workflows.audit.audit.audit", "workflows.predict.predict.predict"),
        "workflows.predict.exported.predict_exported",
        *("reporting.html.write_report", "cli.shipped_recipes.copy_recipe"),
        "workflows.download.download.download",
    ):
        monkeypatch.setattr(f"cxrignite.{work}", reached)
    monkeypatch.setattr(RunFolder, "finished_recipe", recipe_of)
    monkeypatch.chdir(ROOT)

    def run(line):
        try:
            return cli.run(shlex.split(line))
        except Reached:
            return 0

    return run


def lines_that_are_not_executed():
    """Command lines inside sentences, of other machines, and with larger networks."""
    pages = [page for page in PAGES if page != OWN_IMAGES and "examples" not in page.parts]
    texts = [FENCED.sub("", page.read_text(encoding="utf-8")) for page in pages]
    found = [line for text in texts for line in re.findall(r"`([^`]+)`", text)]
    found += [line for page in pages for line in lines_of(page) if not is_executed(line)]
    found += [line for page in SLOW for line in lines_of(ROOT / page)]
    launched = r"(?:(?:torchrun .*-m |srun (?:-\S+ )*)?(?:python -m )?cxrignite (?=\w)"
    pattern = re.compile(rf"{launched}|(?=(?:{'|'.join(commands.COMMANDS)}) --run ))(.*)")
    matches = [pattern.fullmatch(" ".join(each.partition(" #")[0].split())) for each in found]
    executed = {line for page in EXECUTED if page not in SLOW for line in EXECUTED[page]}
    return sorted(
        {match[1] for match in matches if match}
        - {line.removeprefix("python -m cxrignite ") for line in executed}
    )


@pytest.mark.parametrize("line", lines_that_are_not_executed())
def test_a_command_line_is_understood(line, understand, capsys):
    assert understand(line) == 0, capsys.readouterr().err


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
def test_a_wrong_command_line_would_be_found(line, understand):
    assert understand(line) == 2


# Code blocks


def test_every_kind_of_promise_is_found():
    assert len(blocks("python")) >= 4
    assert len(blocks("yaml")) >= 2
    assert len(lines_that_are_not_executed()) >= 10
    assert sum(map(len, EXECUTED.values())) >= 30


# A program with arguments: workflows/test_without_this_package.py executes it.
def is_program(block):
    return "sys.argv" in block


@pytest.mark.parametrize(
    "block",
    [
        block
        for block in blocks("python")
        if not CLASS.search(block.values[0]) and not is_program(block.values[0])
    ],
)
def test_a_python_block_runs(block, home):
    engines = {name: Engine(lambda engine, batch: None) for name in ("trainer", "evaluator")}
    prepare(block, home)
    exec(compile(block, "block", "exec"), engines)  # the engines are the reader's own


def read_apart(recipes, *options, parts, folder):
    """What `fit` makes of recipes and of the reader's own classes, in a process of its own.

    A class that was once defined is offered to every later test that errs.
    """
    files = [word for recipe in recipes for word in ("--config", str(recipe))]
    return run_forked(
        ["-m", "cxrignite", "fit", *files, *options, "--print_config"],
        cwd=folder,
        environment={"PYTHONPATH": str(parts)},
    )


def classes_of_pages():
    """Each class that a page defines, with the module by which a recipe there names it."""
    for page in PAGES:
        for block in fenced(page, "python"):
            if defined := CLASS.search(block):
                text = page.read_text(encoding="utf-8")
                module = re.search(rf"\b(my_\w+)\.{defined[1]}\b", text)[1]
                yield pytest.param(block, module, defined[1], id=defined[1])


@pytest.mark.usefixtures("_server")
@pytest.mark.parametrize(("block", "module", "name"), [*classes_of_pages()])
def test_a_class_of_a_page_may_be_named_in_a_recipe(block, module, name, tmp_path):
    (tmp_path / f"{module}.py").write_text(block, encoding="utf-8")
    options = {
        "Overfitting": ["--trainer.handlers", f"[EpochTimer, {module}.{name}]"],
        "MaskedFolders": ["--data.source", f"{module}.{name}", "--data.source.root", "images"],
    }[name]
    recipe = ROOT / "recipes" / "quickstart.yaml"
    read = read_apart([recipe], *options, parts=tmp_path, folder=tmp_path)
    assert read.returncode == 0, read.stderr
    assert f"class_path: {module}.{name}" in read.stdout


@pytest.mark.usefixtures("_server")
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
        below = ["--config", str(recipe)]
        if block.startswith("# findings.yaml"):  # over the page's first block, as it says
            below += ["--config", str(tmp_path / "source.yaml")]
            page = ROOT / "docs" / "guides" / "several-findings.md"
            (tmp_path / "source.yaml").write_text(fenced(page, "yaml")[0], encoding="utf-8")
        parse_recipe("fit", [*below, "--config", str(overlay)])


@pytest.mark.parametrize("block", [*blocks("bash"), *blocks("sh")])
def test_a_shell_block_is_one_that_bash_can_read(block):
    # Loops over runs, clusters and downloads: what they call is executed above.
    read = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=60)
    assert (read.returncode, read.stderr) == (0, "")


# The guide from DICOMs and a table to scores, followed as a whole

NUM_IMAGES, NUM_NEW = 420, 160
# Digests and scores have such digits too, with others beside them.
PATIENT_NUMBER = re.compile(rb"(?<![0-9a-f.])70010\d{3}(?![0-9a-f])")
# A hospital has larger images and more time.
SMALLER = ["--data.image_size", "[48, 48]", "--trainer.max_epochs", "1"]
SMALLER += ["--model.init_args.width", "8"]
STEPS = [
    *("audit", "fit", "test", "report", "predict", "test on other images"),
    *("recalibrate on other images", "test on other images by their threshold"),
    "predict by their threshold",
]


def save_dicom(pixels, path, mrn):
    """An image of 12 bits with a window, inverted, and a person's name in its header."""
    dataset = pydicom.Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.PatientName, dataset.PatientID = "Person^With A Name", mrn
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel = "MONOCHROME1", 1
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    stored = 4095 - pixels.astype("<u2") * 16
    dataset.add_new("PixelData", "OW", stored.tobytes())
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def hospital(tmp_path_factory, _server):
    """A hospital's folder, its table, new images, and what the guide says to save."""
    home = tmp_path_factory.mktemp("hospital")
    phantom = Phantom(
        home / "phantom",
        num_train=NUM_IMAGES,
        num_test=NUM_NEW,
        size=64,
        positive_fraction=0.4,
        images_per_patient=1,
    )
    for folder in ("hospital", "other"):
        (home / folder / "images").mkdir(parents=True)
    (home / "incoming").mkdir()
    header, *_ = fenced(OWN_IMAGES, "csv")[0].splitlines()
    tables = {folder: [header.split(",")] for folder in ("hospital", "other")}
    for number, record in enumerate(phantom.records()):
        with Image.open(record.path) as image:
            pixels = np.asarray(image.convert("L"))
        mrn = f"7001{number:04}"
        folder, name = "hospital", f"images/IM{number:06}"
        if record.split == "test":
            folder = "other"
            save_dicom(pixels, home / "incoming" / f"NEW{number:04}", mrn)
        save_dicom(pixels, home / folder / name, mrn)
        finding = "pneumonia" if record.label else "normal"
        tables[folder].append([name, finding, mrn, ("PA", "AP")[number % 2]])
    for folder, rows in tables.items():
        with (home / folder / "images.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    (home / "hospital.yaml").write_text(fenced(OWN_IMAGES, "yaml")[0], encoding="utf-8")
    [salt] = [block for block in fenced(OWN_IMAGES, "bash") if "salt.txt" in block]
    made = re.fullmatch(r'python -c "(.+)" > salt.txt', salt.strip())
    (home / "salt.txt").write_text(run_forked(["-c", made[1]], cwd=home).stdout)
    return home


@pytest.fixture(scope="module")
def outcomes(hospital, _server):
    """What each command of the guide ends with, in its order."""
    outcomes = {}
    for line in lines_of(OWN_IMAGES):
        argv = shlex.split(line.removeprefix("python -m cxrignite "))
        trimmed = SMALLER if "--config" in argv else []
        if argv[0] == "audit":
            trimmed = SMALLER[:2]
        other = " on other images" if "other/images.csv" in argv else ""
        own = " by their threshold" if "--operating_point" in argv else ""
        done = run_forked(["-m", "cxrignite", *argv, *trimmed], cwd=hospital)
        outcomes[f"{argv[0]}{other}{own}"] = done
    return outcomes


def rows_of(table):
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_each_step_of_the_guide_ends_well(outcomes):
    assert list(outcomes) == STEPS
    for done in outcomes.values():
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_audit_sees_the_splits_that_fit_makes(outcomes, hospital):
    split = (hospital / "runs/hospital/split.csv").read_text()
    for name in ("train", "val", "calibration", "test"):
        lines = outcomes["audit"].stdout.splitlines()
        row = next(line.split() for line in lines if line.split()[:1] == [name])
        assert int(row[1]) == split.count(f",{name},")


def test_the_threshold_is_chosen_with_its_status(outcomes, hospital):
    chosen = stored_point(hospital / "runs/hospital/operating_point.json")
    assert chosen["status"] == "certified"
    assert "certified" in outcomes["fit"].stdout


def test_every_new_image_gets_a_score(outcomes, hospital):
    rows = {name: rows_of(hospital / f"{name}.csv") for name in ("scores", "other")}
    assert len(rows["scores"]) == NUM_NEW
    assert all(0 <= float(row["score"]) <= 1 for row in rows["scores"])
    assert [row["score"] for row in rows["scores"]] == [row["score"] for row in rows["other"]]
    assert rows["scores"][0]["threshold"] != rows["other"][0]["threshold"]


def test_the_threshold_of_the_others_is_judged_by_the_other_half(outcomes, hospital):
    judged = rows_of(hospital / "runs/hospital/predictions/other@other.csv")
    assert 0.3 * NUM_NEW < len(judged) < 0.7 * NUM_NEW
    said = " ".join(outcomes["test on other images by their threshold"].stderr.split())
    assert str(NUM_NEW - len(judged)) in said.split()


def test_no_number_or_name_of_a_patient_is_anywhere(outcomes, hospital):
    written = [path for path in (hospital / "runs").rglob("*") if path.is_file()]
    written += [path for path in hospital.iterdir() if path.name.startswith(("scores", "other."))]
    assert len(written) > 15
    texts = [path.read_bytes() for path in written]
    texts += [(each.stdout + each.stderr).encode() for each in outcomes.values()]
    assert not any(PATIENT_NUMBER.search(text) for text in texts)
    for secret in (b"Person^With", b"With A Name", (hospital / "salt.txt").read_bytes().strip()):
        assert not any(secret in text for text in texts)


# The examples, each from its own folder as a stranger runs them

NUMBER = r"\d+(?:\.\d+)?"


def run_in(folder, line):
    """Run one command line; what it prints on both streams."""
    words = line.split()
    argv = {
        "python": words[1:],
        "cxrignite": [Path(sys.executable).with_name("cxrignite"), *words[1:]],
    }[words[0]]
    done = run_forked(argv, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def ran(tmp_path_factory, _server):
    """By the name of an example: its folder after all commands of its README, and their output."""
    finished = {}

    def of(name):
        if name not in finished:
            folder = tmp_path_factory.mktemp(name) / name
            junk = shutil.ignore_patterns("runs", "data", "maps", "*.csv", "__pycache__")
            shutil.copytree(ROOT / "docs" / "examples" / name, folder, ignore=junk)
            lines = [
                line
                for line in lines_of(folder / "README.md")
                if not line.startswith(("pip", "cd"))
            ]
            printed = [run_in(folder, line) for line in lines]
            assert printed, f"the README of {name} has no command"
            finished[name] = folder, *map("".join, zip(*printed, strict=True))
        return finished[name]

    return of


def number_after(text, term):
    """The number that follows a term, where both stand last."""
    found = re.findall(rf"\b{re.escape(term)}\b\D*?({NUMBER})", text)
    assert found, f"{term!r} has no number in what was printed:\n{text}"
    return float(found[-1])


def without_numbers(line):
    plain = re.sub(r"(positive|negative)s\b", r"\1", line)
    return re.sub(r"\s+", " ", re.sub(NUMBER, "#", plain)).strip()


def test_there_are_four_examples_and_each_is_small():
    names = ["monai_engines", "own_model", "plain_ignite", "sklearn_scores"]
    assert [folder.name for folder in EXAMPLES] == names
    for folder in EXAMPLES:
        assert 1 <= len(programs := list(folder.glob("*.py"))) <= 2
        assert all(30 <= len(path.read_text().splitlines()) <= 95 for path in programs)


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_an_example_prints_what_its_readme_shows_but_for_the_numbers(folder, ran):
    _, out, err = ran(folder.name)
    printed = {without_numbers(line) for line in (out + err).splitlines()}
    shown = [line for block in fenced(folder / "README.md", "text") for line in block.splitlines()]
    shown = [line for line in shown if line]
    assert len(shown) >= 4
    assert [line for line in shown if without_numbers(line) not in printed] == []
    assert not re.search(r"warning|deprecat|error(?! \(ECE\))|traceback", out + err, re.I), err
    assert err == "" or folder.name == "own_model"  # whose log is on stderr


def test_the_plain_loop_evens_out_the_classes_and_keeps_the_tnr(ran):
    _, out, _ = ran("plain_ignite")
    assert len(re.findall(r"^epoch \d: ", out, re.M)) == 4
    [counts] = [line for line in out.splitlines() if line.startswith("positives")]
    positives, images, drawn, draws = map(int, re.findall(r"\d+", counts))
    assert (positives, images, draws) == (100, 1000, 1000)
    assert 430 <= drawn <= 570
    assert "empirical" in out
    assert 0.5 <= number_after(out, "threshold") <= 1
    assert number_after(out, "TNR") >= 0.9
    assert number_after(out, "TPR") > 0.6
    assert 0 < number_after(out, "an epoch") < 60


def test_the_handlers_work_on_the_engines_of_monai(ran):
    folder, out, _ = ran("monai_engines")
    assert number_after(out, "trained on") == 320
    [validation] = [line for line in out.splitlines() if line.startswith("validation")]
    assert number_after(validation, "roc_auc") > 0.8
    history = rows_of(folder / "history.csv")
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    last = {name: float(history[-1][name]) for name in ("roc_auc", "threshold", "tnr")}
    assert last["roc_auc"] == pytest.approx(number_after(validation, "roc_auc"), abs=5e-4)
    assert last["threshold"] == pytest.approx(number_after(validation, "threshold"), abs=5e-5)
    assert last["threshold"] >= 0.3
    assert last["tnr"] >= 0.9
    predictions = rows_of(folder / "predictions.csv")
    assert [row["path"] for row in predictions] == [f"test/{number}.png" for number in range(80)]
    assert [row["label"] for row in predictions] == ["0"] * 60 + ["1"] * 20
    cut = last["threshold"]
    assert all(
        (row["decision"] == "positive") == (float(row["score"]) >= cut) for row in predictions
    )
    maps = rows_of(folder / "maps" / "explain.csv")
    assert re.search(rf"\b{len(maps)} maps\b", out)
    by_path = {row["path"]: row["score"] for row in predictions}
    for row in maps:
        assert by_path[row["path"]] == row["score"]
        assert (folder / "maps" / row["picture"]).stat().st_size > 1000
        assert (folder / "maps" / row["overlay"]).stat().st_size > 500


def test_a_recipe_names_a_model_and_a_loss_from_the_current_folder(ran):
    folder, out, err = ran("own_model")
    run_dir = folder / "runs" / "own_model"
    assert "TwoScaleNet" in err
    resolved = (run_dir / "recipe.yaml").read_text()
    assert "my_parts.TwoScaleNet" in resolved
    assert "my_parts.FocalLoss" in resolved
    chosen = stored_point(run_dir / "operating_point.json")
    assert chosen["status"] == "empirical"
    assert chosen["tnr"] >= chosen["min_tnr"] == 0.8
    assert f"{chosen['threshold']:.4f}" in out
    assert len(rows_of(run_dir / "predictions" / "test.csv")) == 80
    assert finding(run_dir / "metrics" / "test.json")["roc_auc"]["value"] > 0.7
    # The console script finds the module in the current folder, too.
    run_in(folder, "cxrignite validate --run runs/own_model")


def test_the_scores_of_a_classifier_of_scikit_learn_get_a_certificate(ran):
    _, out, _ = ran("sklearn_scores")
    assert re.search(r"\b59 negatives\b.*\b134\b", out)
    [chosen] = [line for line in out.splitlines() if line.startswith("chosen")]
    assert "certified" in chosen
    assert 0.1 <= number_after(chosen, "threshold") <= 1
    assert min(map(float, re.findall(rf"TNR \D*({NUMBER})", chosen))) >= 0.95
    [observed] = [line for line in out.splitlines() if line.startswith("observed")]
    tnr, _, low, high, tpr, *_ = map(float, re.findall(NUMBER, observed))
    assert low <= tnr <= high
    assert tnr > 0.9
    assert tpr > 0.8
