"""The guide from DICOMs and a table to scores, followed line by line."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from cxrignite.data import Phantom

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "your-data.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
NUM_FILMS, NUM_NEW = 420, 160
# Digests and scores have such digits too, with others beside them.
PATIENT_NUMBER = re.compile(rb"(?<![0-9a-f.])70010\d{3}(?![0-9a-f])")
# A hospital has larger films and more time.
SMALLER = [
    "--data.image_size",
    "[48, 48]",
    "--trainer.max_epochs",
    "1",
    "--model.init_args.width",
    "8",
]


def page():
    return PAGE.read_text(encoding="utf-8").replace("\\\n", "")


def block(language, about=""):
    blocks = FENCED.findall(page())
    return next(text for found, text in blocks if found == language and about in text)


def commands():
    plain = [text for language, text in FENCED.findall(page()) if language == ""]
    lines = [line for text in plain for line in text.splitlines()]
    return [shlex.split(line.removeprefix("python -m cxrignite ")) for line in lines]


def save_dicom(pixels, path, mrn):
    """A film of 12 bits with a window, inverted, and a person's name in its header."""
    film = pydicom.Dataset()
    film.SOPClassUID, film.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    film.PatientName, film.PatientID = "Person^With A Name", mrn
    film.PhotometricInterpretation, film.SamplesPerPixel = "MONOCHROME1", 1
    film.Rows, film.Columns = pixels.shape
    film.BitsAllocated, film.BitsStored, film.HighBit, film.PixelRepresentation = 16, 12, 11, 0
    film.WindowCenter, film.WindowWidth = 2048, 4096
    stored = 4095 - pixels.astype("<u2") * 16
    film.add_new("PixelData", "OW", stored.tobytes())
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A hospital's folder, its table, new films, and what the guide says to save."""
    home = tmp_path_factory.mktemp("home")
    phantom = Phantom(
        home / "phantom",
        num_train=NUM_FILMS,
        num_test=NUM_NEW,
        size=64,
        positive_fraction=0.4,
        images_per_patient=1,
    )
    for folder in ("hospital", "other"):
        (home / folder / "films").mkdir(parents=True)
    (home / "incoming").mkdir()
    header, *_ = block("csv").splitlines()
    tables = {folder: [header.split(",")] for folder in ("hospital", "other")}
    for number, film in enumerate(phantom.films()):
        with Image.open(film.path) as image:
            pixels = np.asarray(image.convert("L"))
        mrn = f"7001{number:04}"
        folder, name = "hospital", f"films/IM{number:06}"
        if film.split == "test":
            folder = "other"
            save_dicom(pixels, home / "incoming" / f"NEW{number:04}", mrn)
        save_dicom(pixels, home / folder / name, mrn)
        finding = "pneumonia" if film.label else "normal"
        tables[folder].append([name, finding, mrn, ("PA", "AP")[number % 2]])
    for folder, rows in tables.items():
        with (home / folder / "films.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    (home / "hospital.yaml").write_text(block("yaml"), encoding="utf-8")
    made = block("bash", about="salt.txt").strip().replace("python ", f"{sys.executable} ", 1)
    subprocess.run(made, shell=True, check=True, cwd=home)
    return home


@pytest.fixture(scope="module")
def outcomes(home):
    """What each command of the guide ends with, in its order."""
    outcomes = {}
    for argv in commands():
        trimmed = SMALLER if "--config" in argv else []
        if argv[0] == "audit":
            trimmed = SMALLER[:2]
        other = " on other films" if "other/films.csv" in argv else ""
        own = " by their threshold" if "--operating_point" in argv else ""
        outcomes[f"{argv[0]}{other}{own}"] = subprocess.run(
            [sys.executable, "-m", "cxrignite", *argv, *trimmed],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=240,
        )
    return outcomes


STEPS = [
    *("audit", "fit", "test", "report", "predict", "test on other films"),
    *("recalibrate on other films", "test on other films by their threshold"),
    "predict by their threshold",
]


def test_every_command_of_the_guide_is_run(outcomes):
    assert list(outcomes) == STEPS


@pytest.mark.parametrize("verb", STEPS)
def test_each_step_of_the_guide_ends_well(outcomes, verb):
    assert outcomes[verb].returncode == 0, outcomes[verb].stdout + outcomes[verb].stderr


def rows_of(table):
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_audit_sees_the_splits_that_fit_makes(outcomes, home):
    told = outcomes["audit"].stdout
    split = (home / "runs/hospital/split.csv").read_text()
    for name in ("train", "val", "calibration", "test"):
        row = next(line for line in told.splitlines() if line.split()[:1] == [name])
        assert int(row.split()[1]) == split.count(f",{name},")


def test_the_threshold_is_chosen_with_its_verdict(outcomes):
    assert "certified" in outcomes["fit"].stdout + outcomes["fit"].stderr


def test_every_new_film_gets_a_score(outcomes, home):
    rows = {name: rows_of(home / f"{name}.csv") for name in ("scores", "other")}
    assert len(rows["scores"]) == NUM_NEW
    assert all(0 <= float(row["score"]) <= 1 for row in rows["scores"])
    assert [row["score"] for row in rows["scores"]] == [row["score"] for row in rows["other"]]
    assert rows["scores"][0]["threshold"] != rows["other"][0]["threshold"]


def test_the_threshold_of_the_others_is_judged_by_the_other_half(outcomes, home):
    said = outcomes["test on other films by their threshold"].stderr
    assert "chose the operating point other: left out" in " ".join(said.split())
    judged = rows_of(home / "runs/hospital/predictions/other@other.csv")
    assert 0.3 * NUM_NEW < len(judged) < 0.7 * NUM_NEW


def test_no_number_or_name_of_a_patient_is_anywhere(outcomes, home):
    written = [path for path in (home / "runs").rglob("*") if path.is_file()]
    written += [path for path in home.iterdir() if path.name.startswith(("scores", "other."))]
    assert len(written) > 15
    texts = [path.read_bytes() for path in written]
    texts += [(each.stdout + each.stderr).encode() for each in outcomes.values()]
    assert not any(PATIENT_NUMBER.search(text) for text in texts)
    for secret in (b"Person^With", b"With A Name", (home / "salt.txt").read_bytes().strip()):
        assert not any(secret in text for text in texts)
