"""What `explain` measures, on a model whose reasons are known."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from messages import line_with, missing, refused
from torch import nn

from cxrignite.data import ImageRecord
from cxrignite.errors import DataError
from cxrignite.functional import Interval, grad_cam
from cxrignite.handlers.progress_line import progress_bar
from cxrignite.reporting.map_table import map_table
from cxrignite.reporting.plots.map_figures import outcome_maps, perturbation_curves
from cxrignite.runs.map_evaluation import MapEvaluation
from cxrignite.runs.scores import SplitScores
from cxrignite.workflows.explain.checks import MapProbe, check_maps

SIDE = 32
NUM_IMAGES = 20


class SpotFinder(nn.Module):
    """Says yes where there is a bright spot on a darker ground."""

    def __init__(self) -> None:
        super().__init__()
        self.spot = nn.Conv2d(1, 1, 7, padding=3, bias=False)
        offsets = torch.arange(7) - 3.0
        bell = torch.exp(-(offsets[:, None] ** 2 + offsets**2) / 4)
        self.spot.weight.data[0, 0] = (bell - bell.mean()) / bell.sum()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grey = images.float() / 255 if images.dtype == torch.uint8 else images
        return 40 * self.spot(grey).amax(dim=(1, 2, 3)) - 6


@pytest.fixture
def scores():
    records = [
        ImageRecord(f"{n}.png", f"{n}.png", 1, f"p{n // 2}", "test", {"mask": f"mask{n}.png"})
        for n in range(NUM_IMAGES)
    ]
    y_score = np.full(NUM_IMAGES, 0.99)
    y_score[:4] = 0.1
    y_true = np.ones(NUM_IMAGES, dtype=np.int64)
    return SplitScores(
        records, ("no", "yes"), y_score, y_true, np.zeros((NUM_IMAGES, 1), np.float32)
    )


def place_of(path: Path) -> tuple[int, int]:
    number = int("".join(sign for sign in path.stem if sign.isdigit()))
    return 4 + (7 * number) % 20, 4 + (11 * number) % 20


def read(path: Path) -> torch.Tensor:
    """A dark image with one bright spot, or the mask of the spot."""
    row, column = place_of(path)
    is_mask = path.stem.startswith("mask")
    image = torch.full((1, SIDE, SIDE), 0 if is_mask else 40, dtype=torch.uint8)
    image[0, row : row + 6, column : column + 6] = 255 if is_mask else 220
    return image


def explain(model: nn.Module, images: torch.Tensor, target: str):
    return grad_cam(model, images.float() / 255, "spot", target=target)


def to_scores(target: str, logits: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(logits if target == "positive" else -logits)


def probe_of(read_image=read) -> MapProbe:
    def read_mask(record: ImageRecord, root: Path) -> torch.Tensor:
        return read_image(root / record.attributes["mask"])

    return MapProbe(SpotFinder(), explain, to_scores, read_image, read_mask, torch.device("cpu"))


def test_a_map_of_the_reason_passes_every_check(scores):
    found, curves = check_maps(probe_of(), scores, (0.5, None), 16, Path(), seed=0)
    deletion, insertion, masks = found.positive.deletion, found.positive.insertion, found.masks
    assert found.positive.num_images == 16
    assert deletion.difference.by_patient.high < 0
    assert insertion.difference.by_patient.low > 0
    assert deletion.blank == pytest.approx(insertion.blank, abs=0.2)
    assert masks.num_images == NUM_IMAGES
    assert masks.pointing_game == 1.0
    assert masks.energy_ratio > 4
    assert masks.random_energy_ratio < masks.energy_ratio / 2
    assert abs(found.rank_correlation) < 0.5
    assert curves["deletion"].by_map[0] == pytest.approx(curves["insertion"].by_map[-1])


def test_the_progress_line_gets_to_its_end(scores, monkeypatch):
    lines = []

    def noting(name, total, *, is_shown):
        lines.append(progress_bar(name, total, is_shown=False))
        lines[-1].n, lines[-1].update = 0, lambda: setattr(lines[-1], "n", lines[-1].n + 1)
        return lines[-1]

    monkeypatch.setattr("cxrignite.workflows.explain.checks.progress_bar", noting)
    check_maps(probe_of(), scores, (0.5, None), 16, Path(), seed=0)
    [line] = lines
    assert line.n == line.total > 3


def test_images_called_negative_are_left_out_while_there_are_others(scores):
    seen = []

    def noting(path: Path) -> torch.Tensor:
        seen.append(path.name)
        return read(path)

    check_maps(probe_of(noting), scores, (0.5, None), 16, Path(), seed=0)
    assert not {"0.png", "1.png", "2.png", "3.png"} & set(seen[:16])
    assert {"0.png", "1.png", "2.png", "3.png"} == set(seen[-4:])
    found, _ = check_maps(probe_of(), scores, (1.0, None), 8, Path(), seed=0)
    assert found.positive.num_images == found.negative.num_images == 8
    found, curves = check_maps(probe_of(), scores, (0.0, None), 8, Path(), seed=0)
    assert found.negative is None
    assert list(curves) == ["deletion", "insertion"]


def test_masks_without_an_inside_are_left_out_and_said(scores, caplog):
    def read_some(path: Path) -> torch.Tensor:
        return torch.zeros(1, SIDE, SIDE, dtype=torch.uint8) if path.stem == "mask3" else read(path)

    found, _ = check_maps(probe_of(read_some), scores, (0.5, None), 4, Path(), seed=0)
    assert found.masks.num_images == NUM_IMAGES - 1
    line_with("\n".join(caplog.messages), "1 of 20", "masks")


def test_a_mask_of_another_size_is_named(scores):
    def read_some(path: Path) -> torch.Tensor:
        return read(path)[:, 1:] if path.stem == "mask3" else read(path)

    with refused(DataError, "mask3.png"):
        check_maps(probe_of(read_some), scores, (0.5, None), 4, Path(), seed=0)


def content_of(found) -> MapEvaluation:
    return MapEvaluation("ab", "grad_cam", "spot", "yes", "no", 0.5, found)


def rows_of(table):
    """The rows of a table, each in one line; a row with no label belongs to the one above it."""
    return [" ".join(row.split()) for row in re.split(r"\n+  (?=\S)", table)]


def curves_of(table):
    return [row for row in rows_of(table) if row.startswith(("deletion", "insertion"))]


def test_the_table_says_what_passed_and_what_cannot_be_reported(scores):
    found, _ = check_maps(probe_of(), scores, (0.5, None), 16, Path(), seed=0)
    deletion, insertion = curves_of(
        map_table("test", [], content_of(replace(found, negative=None)))
    )
    for row, name in ((deletion, "deletion"), (insertion, "insertion")):
        check = getattr(found.positive, name)
        low, high = check.difference.by_patient
        numbers = [f"{check.by_map:.3f}", f"{check.by_chance:.3f}"]
        numbers += [f"{check.difference.value:+.3f}", f"{low:+.3f} to {high:+.3f}"]
        line_with(row, *numbers)
        assert not in_capitals(row)
    assert deletion.rpartition(": ")[2] == insertion.rpartition(": ")[2]
    some = replace(found.positive.deletion.difference, by_patient=Interval(-0.1, 0.1))
    none = replace(found.positive.insertion.difference, by_patient=None)
    positive = replace(
        found.positive,
        deletion=replace(found.positive.deletion, difference=some, blank=1.0),
        insertion=replace(found.positive.insertion, difference=none),
    )
    table = map_table("test", [], content_of(replace(found, positive=positive, negative=None)))
    assert max(map(len, table.splitlines())) <= 100
    no_better, unknown = curves_of(table)
    assert in_capitals(line_with(no_better, "-0.100 to +0.100", "1.000"))
    assert not in_capitals(line_with(unknown))
    assert unknown.rpartition(": ")[2] != insertion.rpartition(": ")[2]


def in_capitals(row):
    """Whether a row warns, as the terminal does."""
    return re.search(r"[A-Z]{2,} [A-Z]{2,}", row)


def test_the_table_shows_the_maps_against_the_positive_class_too(scores):
    found, _ = check_maps(probe_of(), scores, (0.5, None), 16, Path(), seed=0)
    assert found.negative.num_images == 4
    table = map_table("test", [], content_of(found))
    assert len(curves_of(table)) == 4
    rows = "\n".join(rows_of(table))
    assert missing(line_with(rows, "yes", 16), ["no"]) == ["no"]
    assert missing(line_with(rows, "no", 4), ["yes"]) == ["yes"]


def test_the_table_of_maps_that_were_not_measured_says_so():
    *_, last = map_table("test", [], content_of(None)).splitlines()
    assert curves_of(map_table("test", [], content_of(None))) == []
    line_with(last, "maps")


def test_figures_show_everything(scores, assert_nothing_is_cut):
    _, curves = check_maps(probe_of(), scores, (0.5, None), 4, Path(), seed=0)
    assert_nothing_is_cut(perturbation_curves(curves, ("no", "yes")))
    assert_nothing_is_cut(outcome_maps([], ("a rather long class name", "yes")))


def test_a_long_heading_is_wrapped_into_lines_of_its_own(scores):
    found, _ = check_maps(probe_of(), scores, (0.5, None), 16, Path(), seed=0)
    long = "Enlarged Cardiomediastinum"
    evaluation = MapEvaluation("ab", "grad_cam", "spot", long, f"no {long}", 0.5, found)
    table = map_table("test", [], evaluation)
    assert "\\n" not in table
    assert max(map(len, table.splitlines())) <= 100


def test_boxes_are_measured_as_masks_are(scores, tmp_path):
    from PIL import Image

    from cxrignite.data import Pipeline
    from cxrignite.data.masks import read_mask

    boxed = []
    for record in scores.records:
        row, column = place_of(record.path)
        Image.fromarray(read(record.path)[0].numpy()).save(tmp_path / record.name)
        boxes = {"boxes": f"{column} {row} 6 6"}
        boxed.append(record._replace(file=str(tmp_path / record.name), attributes=boxes))
    boxed[0] = boxed[0]._replace(attributes={})
    pipeline = Pipeline()
    probe = replace(
        probe_of(pipeline.read), read_mask=lambda *args: read_mask(*args, pipeline=pipeline)
    )
    found, _ = check_maps(probe, replace(scores, records=boxed), (0.5, None), 4, tmp_path, seed=0)
    assert found.masks.num_images == NUM_IMAGES - 1
    assert found.masks.pointing_game == 1.0
    by_masks, _ = check_maps(probe_of(), scores, (0.5, None), 4, Path(), seed=0)
    assert found.masks.area == pytest.approx(by_masks.masks.area)
