"""The pages' command blocks, executed line by line in a folder of synthetic films.

A page begins in a folder of its own, with the recipes that ship, films where the recipes look, and
the finished runs that its lines take for granted. What a page says is what runs; only the size of
things is laid under it, by an overlay behind the page's recipe.
"""

import csv
import re
import shlex
import shutil
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from cxrignite import cli
from cxrignite.data import Phantom

ROOT = Path(__file__).resolve().parents[1]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
# test_guide.py follows the page on films of one's own, from DICOMs to scores.
PAGES = [
    page.relative_to(ROOT).as_posix()
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "examples" not in page.parts  # of which test_examples.py runs every line
    and page.name not in ("your-data.md", "cli.md")
]
NOT_EXECUTED = {
    r"pip install .*": "CI installs the package and its wheel",
    r"tensorboard .*": "a server, which test_tensorboard.py starts",
    r"ssh .*": "another machine",
    r"torchrun .*": "eight processes; tests of two are in workflows/",
    r".*cxrignite download .*": "1.2 GB; workflows/test_download.py has a server",
    r".*pytest .*": "tests of the library",
}
OVERLAYS = {
    "quickstart": "data: {source: {init_args: {num_train: 480, num_test: 60, size: 40}}}\n"
    "model: {init_args: {width: 4}}",
    "baseline_cnn": "model: {init_args: {width: 4, stride: 8}}",
    "resnet50": "model: {init_args: {arch: resnet18, weights: null}}\ntrainer: {epoch_length: 2}",
    "efficientnet_lite0": "trainer: {epoch_length: 2}",
}
SMALL = """
data: {image_size: [32, 32], preprocess: [], num_workers: 0}
trainer: {max_epochs: 1, device: cpu}
explain: {max_images: 1, num_measured: 4}
"""
OPTIONS = {"benchmark": "--num_steps 2 --repeats 1"}
# The reader's own in a page, and what a folder of the tests has for it.
STANDS_FOR = {"DIR": "data/chest_xray", "FILE": "weights/tf_efficientnet_lite0_imagenet.pt"}
# Executed once, for all the pages that begin with them.
FIRST = [
    f"python -m cxrignite {line}"
    for name in ("quickstart", "baseline_cnn")
    for line in (f"fit --config recipes/{name}.yaml", f"test --run runs/{name}")
]
# One run of a light network is as good to compare as another.
RESNET50 = [
    "cxrignite fit --config recipes/baseline_cnn.yaml --seed 1 --run_dir runs/resnet50",
    "cxrignite test --run runs/resnet50",
]
AUDIT = "python -m cxrignite audit"
EXIT_CODES = {  # small synthetic films look so alike that an audit finds some twice
    f"{AUDIT} --config recipes/resnet50.yaml": 3,
    f"{AUDIT} --config recipes/resnet50.yaml --fail_on problem shift": 3,
    f"{AUDIT} --config recipes/baseline_cnn.yaml": 3,
    f"{AUDIT} --data.source ClassFolders --data.source.root data/chest_xray": 3,
}


def lines_of(page):
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = [block for language, block in FENCED.findall(text) if not language]
    lines = [line for block in blocks for line in block.splitlines()]
    plain = [line.partition(" #")[0].rstrip() for line in lines]
    return [" ".join(part.split()) for line in plain for part in line.split(" && ") if part]


def is_executed(line):
    return not any(re.fullmatch(pattern, line) for pattern in NOT_EXECUTED)


EXECUTED = [page for page in PAGES if any(map(is_executed, lines_of(page)))]
# No guide: its lines are those of other pages, with larger networks.
SLOW = {"docs/results.md": [pytest.mark.slow]}


@pytest.fixture(scope="module")
def furnished(tmp_path_factory):
    """A folder with recipes, films and weights, and the runs that a page may begin with."""
    home = tmp_path_factory.mktemp("furnished")
    shutil.copytree(ROOT / "recipes", home / "recipes")
    for name, overlay in {"all": SMALL, **OVERLAYS}.items():
        (home / f"small-{name}.yaml").write_text(overlay, encoding="utf-8")
    films = Phantom(
        home / "phantom",
        num_train=420,
        num_test=40,
        size=40,
        positive_fraction=0.3,  # 42 negative patients for a certificate
        images_per_patient=1,
    ).films()
    for number, film in enumerate(films):
        name = f"person{number}_virus_1" if film.label else f"IM-{number:04}-0001"
        path = home / "data/chest_xray" / film.split / ("NORMAL", "PNEUMONIA")[film.label]
        path.mkdir(parents=True, exist_ok=True)
        with Image.open(home / "phantom" / film.path) as image:
            image.save(path / f"{name}.jpeg", quality=95)
    shutil.rmtree(home / "phantom")
    network = timm.create_model("tf_efficientnet_lite0")
    (home / "weights").mkdir()
    torch.save(network.state_dict(), home / STANDS_FOR["FILE"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for line in (*FIRST, *RESNET50):
            assert execute(line) == 0, line
        (home / "runs").rename(home / "finished")
        shutil.move(home / "finished" / "packs", home / "runs" / "packs")
        new = sorted((home / "data/phantom/test").rglob("*.png"))
        with (home / "ward.csv").open("w", newline="") as file:
            rows = [[path.relative_to(home), path.stem] for path in new]
            csv.writer(file).writerows([["file", "person"], *rows])
    return home


@pytest.fixture
def home(furnished, tmp_path, monkeypatch):
    home = tmp_path / "home"
    shutil.copytree(furnished, home)
    monkeypatch.chdir(home)
    return home


def execute(line):
    """Run a line of a page here; its exit code."""
    words = [STANDS_FOR.get(word, word) for word in shlex.split(line)]
    assert "cxrignite" in words, f"neither executed nor exempt: {line}"
    verb, *arguments = words[words.index("cxrignite") + 1 :]
    recipes = [at for at, word in enumerate(arguments) if word == "--config"]
    if recipes:
        name, behind = Path(arguments[recipes[0] + 1]).stem, recipes[-1] + 2
        small = f"--config small-all.yaml --config small-{name}.yaml {OPTIONS.get(verb, '')}"
        arguments[behind:behind] = shlex.split(small)
    return cli.run([verb, *arguments])


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
    for line in filter(is_executed, lines_of(page)):
        prepare(line, home)
        code = 0 if line in FIRST else execute(line)
        assert code == EXIT_CODES.get(line, 0), f"{line}\n{capsys.readouterr().err}"


def test_the_python_of_a_page_reads_a_run(home):
    text = (ROOT / "docs/guides/predict.md").read_text(encoding="utf-8")
    [block] = [block for language, block in FENCED.findall(text) if language == "python"]
    prepare("runs/quickstart", home)
    exec(compile(block, "block", "exec"), {})


def test_what_is_not_executed_has_a_reason_that_is_still_needed():
    lines = [line for page in PAGES for line in lines_of(page)]
    for pattern in NOT_EXECUTED:
        assert any(re.fullmatch(pattern, line) for line in lines), f"{pattern} exempts nothing"
    assert {"docs/guides/grad-cam.md", "docs/guides/operating-point.md"} <= set(EXECUTED)


def test_a_line_that_a_page_gets_wrong_is_found(home, capsys):
    assert execute("python -m cxrignite fit --config recipes/quickstart.yaml --mode.width 4") == 2
    with pytest.raises(AssertionError, match="neither executed nor exempt"):
        execute("cxrgnite fit")
