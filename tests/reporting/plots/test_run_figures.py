import io
import itertools
import math
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from messages import line_with, refused

from cxrignite.reporting.plots import run_figures as figures


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def test_the_class_distribution_shows_each_count_and_its_share_of_the_split(assert_nothing_is_cut):
    counts = {
        "train": {"NORMAL": 1147, "PNEUMONIA": 3301},
        "val": {"NORMAL": 202, "PNEUMONIA": 582},
        "test": {"NORMAL": 234, "PNEUMONIA": 390},
    }
    figure = figures.class_distribution(counts)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [1147, 202, 234, 3301, 582, 390]
    assert {"1,147\n26%", "390\n62%"} <= set(texts_of(figure))
    assert legend_of(figure.axes[0]) == ["NORMAL", "PNEUMONIA"]
    assert_nothing_is_cut(figure)


def test_findings_have_a_row_of_bars_with_one_for_each_split(assert_nothing_is_cut):
    counts = {
        "train": {"No Finding": 1200, "Effusion": 30, "Enlarged Cardiomediastinum": 5},
        "test": {"No Finding": 40, "Effusion": 10, "Enlarged Cardiomediastinum": 0},
    }
    figure = figures.class_distribution(counts)
    [axes] = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [1200, 30, 5, 40, 10, 0]
    assert {"1,200", "30", "0"} <= set(texts_of(figure))
    assert legend_of(axes) == ["train", "test"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(counts["train"])
    # The first finding is above the others, and no bar covers another.
    places = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bar in axes.patches)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
    assert axes.yaxis_inverted()
    assert_nothing_is_cut(figure)


def test_an_empty_split_has_a_bar_of_height_zero(assert_nothing_is_cut):
    figure = figures.class_distribution({"test": {"NORMAL": 0, "PNEUMONIA": 0}})
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0, 0]
    assert_nothing_is_cut(figure)


def test_samples_keep_their_own_brightness():
    dark, light = np.full((8, 8), 40, np.uint8), np.full((8, 8), 0.8, np.float32)
    figure = figures.sample_grid([dark, light], ["dark", "light"])
    drawn = figure.axes[0].images
    greys = [image.cmap(image.norm(image.get_array()))[0, 0, 0] for image in drawn]
    assert greys == pytest.approx([40 / 255, 0.8], abs=0.01)
    assert [text.get_text() for text in figure.axes[0].texts] == ["dark", "light"]


@pytest.mark.parametrize("shape", [(8, 8), (8, 12), (12, 8)])
@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_a_grid_has_a_place_for_every_sample(count, shape, assert_nothing_is_cut):
    titles = ["NORMAL\n" + "1.2.840." * 8] * count
    figure = figures.sample_grid([np.zeros(shape, np.uint8)] * count, titles)
    assert_nothing_is_cut(figure)
    width, height = 120 * figure.get_size_inches()
    boxes = [box.get_window_extent() for box in (*figure.axes[0].images, *figure.axes[0].texts)]
    assert len(boxes) == 2 * count
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(0 < box.x0 < box.x1 < width and 0 < box.y0 < box.y1 < height for box in boxes)
    for image in boxes[:count]:
        assert image.height / image.width == pytest.approx(shape[0] / shape[1])


def test_samples_without_their_titles_are_refused():
    with refused(ValueError, "title", "1", "0"):
        figures.sample_grid([np.zeros((8, 8), np.uint8)], [])


def history(num_epochs):
    return [
        {
            "epoch": epoch,
            "epoch_seconds": 20.0 + epoch,
            "data_wait_seconds": 2.0,
            "images_per_second": 50.0,
            "loss": 1 / epoch,
            "val_loss": 1.2 / epoch,
            "val_roc_auc": 1 - 0.3 / epoch,
        }
        for epoch in range(1, num_epochs + 1)
    ]


@pytest.mark.parametrize("num_epochs", [0, 1, 2, 30])
@pytest.mark.parametrize("draw", [figures.epoch_times, figures.learning_curves])
def test_any_number_of_epochs_can_be_drawn(draw, num_epochs, assert_nothing_is_cut):
    figure = draw(history(num_epochs))
    assert isinstance(figure, Figure)
    assert_nothing_is_cut(figure)
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert all(tick == round(tick) >= 1 for tick in ticks)


def test_computing_and_waiting_add_up_to_the_epoch():
    rows = history(3)
    axes = figures.epoch_times(rows).axes[0]
    heights = np.array([bar.get_height() for bar in axes.patches]).reshape(2, 3)
    np.testing.assert_allclose(heights.sum(axis=0), [21, 22, 23])
    np.testing.assert_allclose(heights[1], 2)
    line_with(axes.get_title(), "22 s", "50 images/s")


def test_the_best_epoch_is_marked_and_a_nan_leaves_a_gap():
    rows = history(4)
    rows[3]["val_roc_auc"] = math.nan
    _, right = figures.learning_curves(rows).axes
    line_with(right.get_title(), "AUC", "0.9000", "epoch 3")
    assert math.isnan(right.lines[0].get_ydata()[3])


def test_epochs_without_times_or_scores_are_drawn_without_them():
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4}]
    figure = figures.learning_curves(rows)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.5, 0.4])
    assert not re.search(r"\d", line_with(figure.axes[1].get_title(), "AUC"))


def test_drawing_leaves_no_global_state():
    before = dict(mpl.rcParams)
    figures.epoch_times(history(2)).savefig(io.BytesIO())
    assert dict(mpl.rcParams) == before
