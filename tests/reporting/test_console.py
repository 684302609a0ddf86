"""Lines that `fit` logs; `tests/test_terminal.py` tests their layout."""

import logging
import re

import pytest
from messages import line_with, missing

from cxrignite.data import ImageRecord, Phantom, XrayData
from cxrignite.nn import LightCNN
from cxrignite.recipe import DataRecipe, Fold, Recipe
from cxrignite.reporting.console import EpochLines, print_split, split_lines

METRICS = {"loss": 0.5, "val_loss": 0.25, "val_roc_auc": 0.875, "epoch_seconds": 1234.5}


@pytest.fixture
def printed(caplog):
    """The lines that were logged since the last call."""
    caplog.set_level(logging.INFO, logger="cxrignite")

    def lines() -> list[str]:
        messages = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return messages

    return lines


def test_titles_come_once_and_each_figure_stands_below_its_own(printed):
    lines = EpochLines(100, "val_roc_auc")
    lines.log(1, METRICS, is_best=True)
    lines.log(2, METRICS, is_best=False)
    head, best, row = printed()
    titles = re.split(r"\s{2,}", line_with(head, "loss", "AUC").strip())
    figures = ["2/100", "0.5000", "0.2500", "0.8750", "1234.5"]
    assert row.split() == figures
    for title, figure in zip(titles, figures, strict=True):
        assert re.search(rf"\b{title}$", head[: row.index(figure) + len(figure)])
    line_with(best.removeprefix(row.replace("2/100", "1/100")), "best")


@pytest.mark.parametrize(
    ("metric", "title"),
    [("val_average_precision", "AP"), ("val_my_own_metric_of_old_images", "my_own_metric_")],
)
def test_what_picks_the_best_has_a_column(printed, metric, title):
    EpochLines(9, metric).log(1, {**METRICS, metric: 0.75}, is_best=False)
    head, row = printed()
    assert title in head.split()
    assert head.index(title) < head.index("seconds")
    assert row.split()[-2] == "0.7500"


def test_a_metric_that_is_gone_leaves_its_place_empty(printed):
    lines = EpochLines(9, "val_roc_auc")
    lines.log(1, METRICS, is_best=False)
    lines.log(2, {"loss": 0.5, "epoch_seconds": 2.0}, is_best=False)
    assert printed()[-1].split() == ["2/9", "0.5000", "2.0"]


def record(split: str, number: int) -> ImageRecord:
    return ImageRecord(f"{number}.png", f"{number}.png", number % 2, str(number), split)


@pytest.mark.parametrize(
    ("settings", "own", "shares"),
    [
        ({}, ["test"], {"val": "0.15", "test": ""}),
        ({}, ["val", "test"], {"val": "", "test": ""}),
        ({"test_fraction": 0.2}, [], {"val": "0.15", "test": "0.2"}),
        (
            {"fold": Fold(1, 5), "calibration_fraction": 0.1},
            ["val"],  # which joins train
            {"val": "fold 1 of 5", "calibration": "0.1"},
        ),
    ],
)
def test_who_is_in_which_split_is_reported_with_the_reason(printed, settings, own, shares):
    recipe = Recipe(
        data=DataRecipe(Phantom("images"), **settings), model=LightCNN, optimizer=_optimizer
    )
    listed = [record(split, number) for number, split in enumerate(["train", *own])]
    data = XrayData(
        [record(split, number) for number, split in enumerate(["train", *shares] * 2)],
        ("healthy", "ill"),
    )
    printed()  # what the images' loader says
    print_split(recipe.data, recipe.seed, listed, data, frozen=False)
    first, head, *rows = printed()
    line_with(first, *(f"{split} {share}".strip() for split, share in shares.items()))
    for split, share in shares.items():
        assert share or not re.search(rf"\b{split} \d", first)  # that of its source
    assert missing(first, [42]) == ([] if any(shares.values()) else ["42"])
    assert missing(first, ["source"]) == ([] if "" in shares.values() else ["source"])
    assert missing(head, ["healthy", "ill", "patients"]) == []
    assert [row.split()[0] for row in rows] == ["train", *shares]
    print_split(recipe.data, recipe.seed, listed, data, frozen=True)
    frozen = line_with(printed()[0], "split.csv")
    assert missing(frozen, shares) == list(shares)


def test_a_split_is_a_row_of_images_and_patients():
    records = [record("train", number) for number in range(5)]
    records.append(ImageRecord("6.png", "6.png", 1, records[-1].patient, "train"))
    header, row = split_lines(XrayData(records, ("healthy", "ill")))
    line_with(header, "split", "healthy", "ill")
    assert row.split() == ["train", "3", "3", "6", "5"]
    ends = [[cell.end() for cell in re.finditer(r"\S+", line)] for line in (header, row)]
    assert ends[0][1:] == ends[1][1:]


def test_of_several_findings_the_splits_are_columns():
    labels = [(1, 0), (-1, 1), (0, 0), (0, -1)]
    records = [
        ImageRecord(f"{n}.png", f"{n}.png", label, f"p{n // 2}", "train" if n < 3 else "val")
        for n, label in enumerate(labels)
    ]
    lines = split_lines(XrayData(records, ("none", "Effusion", "Nodule")))
    assert [line.split() for line in lines] == [
        ["train", "val"],
        ["images", "3", "1"],
        ["patients", "2", "1"],
        ["Effusion", "1", "(1", "unknown)", "0"],
        ["Nodule", "1", "0", "(1", "unknown)"],
    ]


def _optimizer(parameters):
    from torch.optim import SGD

    return SGD(parameters, lr=0.1)
