import io
import math

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from cxrignite.functional import confusion_at, select_operating_point
from cxrignite.workflows import figures

CLASSES = ("NORMAL", "PNEUMONIA")


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    y_true = (rng.uniform(size=300) < 0.6).astype(np.float32)
    logits = rng.normal(0, 1.6, 300) + 4 * y_true - 1.5
    return (1 / (1 + np.exp(-logits))).astype(np.float32), y_true


def pixels(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def texts_of(figure):
    return [text.get_text() for text in figure.findobj(mpl.text.Text)]


def assert_nothing_is_cut(figure):
    image = pixels(figure)
    border = np.concatenate([image[:2], image[-2:]]).reshape(-1, 3)
    sides = np.concatenate([image[:, :2], image[:, -2:]]).reshape(-1, 3)
    assert (border == 255).all()
    assert (sides == 255).all()


def test_the_class_distribution_shows_each_count_and_its_share_of_the_split():
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


def test_an_empty_split_has_a_bar_of_height_zero():
    figure = figures.class_distribution({"test": {"NORMAL": 0, "PNEUMONIA": 0}})
    assert [bar.get_height() for bar in figure.axes[0].patches] == [0, 0]
    assert_nothing_is_cut(figure)


def test_samples_keep_their_own_brightness():
    dark, light = np.full((8, 8), 40, np.uint8), np.full((8, 8), 0.8, np.float32)
    figure = figures.sample_grid([dark, light], ["dark", "light"])
    drawn = [axes.images[0] for axes in figure.axes]
    greys = [image.cmap(image.norm(image.get_array()))[0, 0, 0] for image in drawn]
    assert greys == pytest.approx([40 / 255, 0.8], abs=0.01)
    assert [axes.get_title() for axes in figure.axes] == ["dark", "light"]


@pytest.mark.parametrize("count", [0, 1, 6, 7])
def test_a_grid_has_a_place_for_every_sample(count):
    figure = figures.sample_grid([np.zeros((8, 8), np.uint8)] * count, ["NORMAL\np1"] * count)
    assert sum(bool(axes.images) for axes in figure.axes) == count
    assert_nothing_is_cut(figure)


def test_samples_without_their_titles_are_refused():
    with pytest.raises(ValueError, match="each image needs a title, got 1 and 0"):
        figures.sample_grid([np.zeros((8, 8), np.uint8)], [])


def test_the_confusion_pair_shows_both_matrices_and_their_rates(scored):
    half, chosen = confusion_at(*scored, 0.5), confusion_at(*scored, 0.9)
    figure = figures.confusion_pair(half, chosen, 0.9, CLASSES)
    left, right = figure.axes
    assert "Threshold 0.5" in left.get_title()
    assert f"(TNR) {half.tnr:.3f}, sensitivity (TPR) {half.tpr:.3f}" in left.get_title()
    assert f"{chosen.fp}\n{1 - chosen.tnr:.1%}\nfalse positives" in texts_of(figure)
    # Rows are the truth: the share of a row's cells is one.
    np.testing.assert_allclose(right.images[0].get_array().sum(axis=1), 1)
    assert_nothing_is_cut(figure)


def test_a_class_without_films_has_an_undefined_rate(scored):
    y_score, _ = scored
    confusion = confusion_at(y_score, np.ones_like(y_score), 0.5)
    figure = figures.confusion_pair(confusion, confusion, 0.5, CLASSES)
    assert "specificity (TNR) undefined" in figure.axes[0].get_title()
    assert_nothing_is_cut(figure)


def test_the_roc_curve_gives_sklearns_area_and_marks_the_operating_point(scored):
    y_score, y_true = scored
    point = select_operating_point(y_score, y_true)
    axes = figures.roc_curve(y_score, y_true, point, split="val").axes[0]
    assert f"AUC {roc_auc_score(y_true, y_score):.4f}" in legend_of(axes)
    marked = axes.lines[-1].get_xydata()[0]
    np.testing.assert_allclose(marked, [1 - point.tnr, point.tpr])
    assert axes.get_title() == "ROC curve, val films"


def test_the_precision_recall_curve_marks_what_these_films_get_at_the_threshold(scored):
    y_score, y_true = scored
    point = select_operating_point(y_score, y_true)
    there = confusion_at(y_score[:150], y_true[:150], point.threshold)
    axes = figures.precision_recall_curve(y_score[:150], y_true[:150], point).axes[0]
    average = average_precision_score(y_true[:150], y_score[:150])
    assert f"average precision {average:.4f}" in legend_of(axes)
    np.testing.assert_allclose(axes.lines[-1].get_xydata()[0], [there.tpr, there.ppv])


def test_where_nothing_is_called_positive_there_is_no_precision_to_mark(scored):
    y_score, y_true = scored
    point = select_operating_point(y_score, y_true)
    axes = figures.precision_recall_curve(y_score / 2, y_true, point).axes[0]
    assert not [text for text in legend_of(axes) if text.startswith("threshold")]


def test_reliability_bins_hold_every_film_once(scored):
    y_score, y_true = scored
    top, bottom = figures.reliability(y_score, y_true, num_bins=10).axes
    assert sum(bar.get_height() for bar in bottom.patches) == len(y_score)
    inside = (y_score >= 0.9) & (y_score <= 1.0)
    last = top.lines[1].get_xydata()[-1]
    np.testing.assert_allclose(last, [y_score[inside].mean(), y_true[inside].mean()], rtol=1e-5)


def test_a_score_of_one_lies_in_the_last_bin():
    _, bottom = figures.reliability(np.array([0.0, 1.0]), np.array([0, 1]), num_bins=4).axes
    assert [bar.get_height() for bar in bottom.patches] == [1, 0, 0, 1]


@pytest.mark.parametrize("draw", [figures.roc_curve, figures.precision_recall_curve])
def test_films_of_one_class_get_axes_that_say_so(draw, scored):
    y_score, y_true = scored
    point = select_operating_point(y_score, y_true)
    figure = draw(y_score, np.ones_like(y_true), point, split="test")
    assert any("one class" in text for text in texts_of(figure))
    assert_nothing_is_cut(figure)


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
def test_any_number_of_epochs_can_be_drawn(draw, num_epochs):
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
    assert "median 22 s, 50 images/s" in axes.get_title()


def test_the_best_epoch_is_marked_and_a_nan_leaves_a_gap():
    rows = history(4)
    rows[3]["val_roc_auc"] = math.nan
    _, right = figures.learning_curves(rows).axes
    assert right.get_title() == "Validation AUC: best 0.9000 in epoch 3"
    assert math.isnan(right.lines[0].get_ydata()[3])


def test_epochs_without_times_or_scores_are_drawn_without_them():
    rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.4}]
    figure = figures.learning_curves(rows)
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.5, 0.4])
    assert figure.axes[1].get_title() == "Validation AUC"


def test_drawing_leaves_no_global_state(scored):
    before = dict(mpl.rcParams)
    pixels(figures.roc_curve(*scored))
    assert dict(mpl.rcParams) == before
