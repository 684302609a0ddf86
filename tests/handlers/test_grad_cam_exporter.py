from __future__ import annotations

import copy
import csv
import io
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from messages import line_with, refused
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from cxrignite.errors import CxrIgniteError, NonFiniteError, RecipeError
from cxrignite.functional import UNKNOWN_LABEL, ImageChoice, grad_cam, overlay
from cxrignite.handlers import (
    GradCAMExporter,
    ScoreCollector,
    TensorBoardWriter,
    ThresholdSearch,
)
from cxrignite.handlers.map_picture import map_picture
from cxrignite.nn import LightCNN

NUM_IMAGES = 12
SCORES = torch.tensor([0.9, 0.1, 0.6, 0.4, 0.8, 0.2, 0.7, 0.3, 0.55, 0.45, 0.95, 0.05])
LABELS = torch.tensor([0.0, 1, 0, 1, 1, 0, 1, 0, 1, 0, 1, 0])
IMAGES = torch.rand(NUM_IMAGES, 1, 32, 32, generator=torch.Generator().manual_seed(0))
FEW = ImageChoice(kinds=("errors",), max_images=2)  # 0 and 1 by their scores


@pytest.fixture
def light():
    torch.manual_seed(3)
    model = LightCNN(width=2, stride=8).eval()
    nn.init.constant_(model.head[1].weight, 1.0)  # every feature speaks for it: no map is empty
    return model


def looking(weight=1.0):
    """A model whose map is the image itself, or nothing where the weight is below zero."""
    model = nn.Sequential(
        nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1, bias=False)
    )
    nn.init.constant_(model[3].weight, weight)
    return model


def batches(size=5, images=IMAGES, scores=SCORES, labels=LABELS):
    parts = (images, labels, torch.arange(len(images)), scores)
    return list(zip(*(part.split(size) for part in parts), strict=True))


def scripted(exporter):
    """An evaluator that touches no model: its scores come with the batch."""
    engine = Engine(lambda engine, batch: (batch[-1], batch[1]))
    exporter.attach(engine)
    return engine


def table(folder):
    with open(folder / "explain.csv", newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def pixels(path):
    return np.asarray(Image.open(path))


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_files_show_and_tell_what_the_images_score(tmp_path, light):
    engine = Engine(lambda engine, batch: (torch.sigmoid(light(batch[0])).detach(), batch[1]))
    exporter = GradCAMExporter(light, tmp_path / "maps", "backbone.4", choice=ImageChoice())
    exporter.attach(engine)
    engine.run(batches())
    expected = torch.sigmoid(light(IMAGES)).tolist()
    rows = table(tmp_path / "maps")
    assert len(rows) == len(exporter.explanations) > 4
    assert {file for row in rows for file in (row["picture"], row["overlay"])} == {
        name for name in names_in(tmp_path / "maps") if name != "explain.csv"
    }
    found = grad_cam(light, IMAGES, "backbone.4")
    strongest = max(each.raw_max for each in exporter.explanations)
    for row, each in zip(rows, exporter.explanations, strict=True):
        number = int(row["index"])
        assert each.y_score == pytest.approx(expected[number], abs=1e-6)
        assert float(row["score"]) == each.y_score
        assert row["decision"] == ("positive" if each.y_score >= 0.5 else "negative")
        assert row["label"] == str(int(LABELS[number]))
        assert row["selection"] == " ".join(each.selection)
        assert each.raw_max == pytest.approx(float(found.raw_max[number]), rel=1e-4)
        assert float(row["strength"]) == each.strength == each.raw_max / strongest
        assert torch.equal(each.image, IMAGES[number])
        torch.testing.assert_close(each.importance, found.maps[number], atol=1e-4, rtol=1e-4)
        over = overlay(each.image[None], each.importance[None], opacity=each.opacity)[0].permute(
            1, 2, 0
        )
        assert np.array_equal(pixels(tmp_path / "maps" / row["overlay"]), over)


def test_the_picture_carries_the_caption_with_threshold_truth_and_classes(tmp_path):
    choice = ImageChoice(threshold=0.25, kinds=("errors",), max_images=2)
    exporter = GradCAMExporter(
        looking(), tmp_path, "0", "hires_cam", choice, classes=("gesund", "Röntgen-肺炎")
    )
    scripted(exporter).run(batches())
    first, second = exporter.explanations
    captions = [each.caption(exporter.classes, "hires_cam at 0") for each in (first, second)]
    for lines, score, classes in zip(
        captions, ("0.9000", "0.1000"), (exporter.classes[::-1], exporter.classes), strict=True
    ):
        line_with(lines[0], score, "0.2500")
        assert tuple(re.findall("gesund|Röntgen-肺炎", lines[0])) == classes
    for each, lines in zip((first, second), captions, strict=True):
        expected = map_picture(each.image, each.importance, lines, opacity=each.opacity)
        assert np.array_equal(pixels(tmp_path / each.picture), expected)


def test_an_empty_map_is_reported_and_leaves_the_image_grey(tmp_path):
    exporter = GradCAMExporter(looking(-1.0), tmp_path, "0", choice=FEW)
    labels = torch.full((NUM_IMAGES,), float(UNKNOWN_LABEL))
    scripted(exporter).run(batches(labels=labels))
    assert exporter.explanations == []  # no label, no miss
    exporter.choice = ImageChoice(kinds=("most_sure",), max_images=1)
    scripted(exporter).run(batches(labels=labels))
    (each,) = exporter.explanations
    called, where, _ = each.caption(exporter.classes, "here")
    assert len(re.findall("|".join(exporter.classes), called)) == 1
    assert not re.search(r"\d", where)
    assert (each.raw_max, each.strength) == (0.0, 0.0)
    over = pixels(tmp_path / each.overlay)
    assert (over == over[..., :1]).all()
    assert table(tmp_path)[0]["label"] == ""


def test_the_hot_corner_is_where_it_is_in_the_image(tmp_path):
    images = torch.zeros(1, 1, 4, 8)
    images[0, 0, 0, 7] = 1.0
    exporter = GradCAMExporter(looking(), tmp_path, "0", choice=ImageChoice(indices=(0,)))
    scripted(exporter).run(batches(5, images, SCORES[:1], LABELS[:1]))
    (each,) = exporter.explanations

    def is_coloured(picture):
        return picture.max(axis=2).astype(int) - picture.min(axis=2) > 10

    assert np.argwhere(is_coloured(pixels(tmp_path / each.overlay))).tolist() == [[0, 7]]
    scale, margin = 40, 8
    top, left = margin, 2 * margin + 8 * scale + 7 * scale
    above_the_scale = pixels(tmp_path / each.picture)[: margin + 4 * scale]
    place = np.argwhere(is_coloured(above_the_scale))
    assert place.min(axis=0).tolist() == [top, left]
    assert place.max(axis=0).tolist() == [top + scale - 1, left + scale - 1]


def test_no_more_images_are_kept_than_may_be_chosen_and_none_keeps_its_batch(tmp_path):
    count, buffer = 200, torch.zeros(8, 1, 4, 4)
    scores = torch.rand(count, generator=torch.Generator().manual_seed(1))

    def loader():  # every batch in the same memory
        for start in range(0, count, 8):
            index = torch.arange(start, start + 8)
            yield buffer.copy_(index[:, None, None, None] / count), index % 2, index, scores[index]

    choice = ImageChoice(max_images=2, indices=(5,))
    exporter = GradCAMExporter(looking(), tmp_path, "0", choice=choice)
    engine, kept = scripted(exporter), []

    def look():
        kept.append(len(exporter._candidates))
        for each in exporter._candidates:
            assert each.image.untyped_storage().nbytes() == 4 * 4 * 4

    engine.add_event_handler(Events.ITERATION_COMPLETED, look)
    engine.run(loader(), epoch_length=count // 8)
    assert len(kept) == 25
    assert max(kept) <= 4 * 2 + 1
    assert exporter._candidates == []
    chosen = choice.of(scores, np.arange(count) % 2, np.arange(count))
    assert [int(row["index"]) for row in table(tmp_path)] == list(chosen)
    for row, each in zip(table(tmp_path), exporter.explanations, strict=True):
        assert each.image.unique().tolist() == pytest.approx([int(row["index"]) / count])


def test_the_model_and_the_random_numbers_are_left_alone(tmp_path, light):
    light.train()
    light.backbone[2].eval()
    light.head[1].weight.grad = torch.ones_like(light.head[1].weight)
    light.backbone[0][0].weight.requires_grad_(False)
    own = light.backbone[4].register_forward_hook(lambda *_: None)
    before = copy.deepcopy(light.state_dict())
    modes = [part.training for part in light.modules()]
    wanted = [weight.requires_grad for weight in light.parameters()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    scripted(GradCAMExporter(light, tmp_path, "backbone.4", choice=FEW)).run(batches())
    assert len(table(tmp_path)) == 2
    after = light.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert [part.training for part in light.modules()] == modes
    assert [weight.requires_grad for weight in light.parameters()] == wanted
    assert [weight.grad is None for weight in light.parameters()].count(False) == 1
    assert torch.equal(light.head[1].weight.grad, torch.ones_like(light.head[1].weight))
    hooks = [name for part in light.modules() for name in part._forward_hooks]
    assert hooks == [own.id]
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]


def test_a_training_with_maps_of_every_epoch_ends_in_the_same_weights(tmp_path):
    def train(explains):
        torch.manual_seed(11)
        model = LightCNN(width=2, dropout=0.5, stride=8).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)

        def update(engine, number):
            chosen = torch.randperm(NUM_IMAGES)[:6]
            optimizer.zero_grad()
            logits = model(IMAGES[chosen])
            nn.functional.binary_cross_entropy_with_logits(logits, LABELS[chosen]).backward()
            optimizer.step()

        def score(engine, batch):
            with torch.no_grad():
                return torch.sigmoid(model(batch[0])), batch[1]

        trainer, evaluator = Engine(update), Engine(score)
        if explains:
            GradCAMExporter(model, tmp_path, "backbone.4", choice=FEW).attach(evaluator)

        @trainer.on(Events.EPOCH_COMPLETED)
        def evaluate():
            model.eval()
            evaluator.run(batches())
            model.train()

        trainer.run([0, 1, 2], max_epochs=3)
        return model.state_dict()

    without, with_maps = train(False), train(True)
    assert table(tmp_path)
    for name, tensor in without.items():
        assert (with_maps[name] - tensor).abs().max() == 0.0, name


def test_each_run_replaces_the_pictures_of_the_one_before_and_nothing_else(tmp_path):
    exporter = GradCAMExporter(looking(), tmp_path, "0", choice=FEW)
    engine = scripted(exporter)
    (tmp_path / "notes.png").write_bytes(b"mine")
    runs = []
    for scores in (SCORES, SCORES.flip(0), LABELS, SCORES):
        engine.run(batches(scores=scores))
        files = {name for row in table(tmp_path) for name in (row["picture"], row["overlay"])}
        assert names_in(tmp_path) == sorted({*files, "explain.csv", "notes.png"})
        assert len(exporter.explanations) == len(table(tmp_path))
        runs.append([row["index"] for row in table(tmp_path)])
    # The third run has no miss.
    assert runs[0] == runs[3] == ["0", "1"]
    assert len(runs[1]) == 2
    assert runs[1] != runs[0]
    assert runs[2] == []


def test_several_epochs_of_a_run_are_each_explained_alone(tmp_path):
    exporter = GradCAMExporter(looking(), tmp_path, "0", choice=FEW)
    engine = Engine(lambda engine, batch: batch[1])
    exporter.attach(engine)
    engine.run([(each[0], (each[3], each[1])) for each in batches()], max_epochs=3)
    assert [row["index"] for row in table(tmp_path)] == ["0", "1"]


def test_a_run_that_was_stopped_leaves_no_candidates_to_the_next(tmp_path):
    exporter = GradCAMExporter(looking(), tmp_path, "0", choice=FEW)
    engine = scripted(exporter)

    @engine.on(Events.ITERATION_COMPLETED(once=2))
    def fail():
        raise RuntimeError("as planned")

    with pytest.raises(RuntimeError, match="as planned"):
        engine.run(batches())
    scripted(exporter).run(batches(scores=LABELS))
    assert table(tmp_path) == []


def test_frozen_weights_have_the_same_maps(tmp_path, light):
    folders = [tmp_path / name for name in ("free", "frozen")]
    for folder in folders:
        light.requires_grad_(folder.name == "free")
        with torch.inference_mode(folder.name == "frozen"):
            scripted(GradCAMExporter(light, folder, "backbone.4", choice=FEW)).run(batches())
    assert names_in(folders[0]) == names_in(folders[1])
    for name in names_in(folders[0]):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert float(table(folders[0])[0]["raw_max"]) > 0


def test_without_an_index_images_are_counted_from_0(tmp_path):
    exporter = GradCAMExporter(looking(), tmp_path, "0", choice=ImageChoice(indices=(7, 11)))
    engine = Engine(lambda engine, batch: (batch[0][:, 0, 0, 0], batch[1]))
    exporter.attach(engine)
    engine.run([each[:2] for each in batches()])
    rows = {int(row["index"]): float(row["score"]) for row in table(tmp_path)}
    assert {7, 11} <= set(rows)
    assert all(IMAGES[number, 0, 0, 0] == score for number, score in rows.items())


def test_what_is_known_of_the_images_comes_first_in_the_table(tmp_path):
    known = [{"path": f"test/image {n}.jpeg", "patient": f"p{n}"} for n in range(NUM_IMAGES)]
    scripted(GradCAMExporter(looking(), tmp_path, "0", choice=FEW, rows=known)).run(batches())
    first = table(tmp_path)[0]
    assert list(first)[:3] == ["path", "patient", "label"]
    assert (first["path"], first["patient"]) == ("test/image 0.jpeg", "p0")
    assert first["picture"] == "000000_image_0.png"


def test_an_image_that_rows_does_not_know_is_refused(tmp_path):
    exporter = GradCAMExporter(looking(), tmp_path, "0", choice=FEW, rows=[{"path": "a"}])
    with refused(ValueError, "index", "1"):
        scripted(exporter).run(batches())


@pytest.mark.parametrize(
    ("layer", "facts"),
    [
        ("backbone.44", ["'backbone.44'", "backbone.4"]),
        ("4", ["'4'", "backbone.4"]),
        ("head", ["target_layer head"]),
    ],
)
def test_a_layer_that_cannot_be_mapped_is_refused_in_one_line(tmp_path, light, layer, facts):
    exporter = GradCAMExporter(light, tmp_path, layer, choice=FEW)
    with refused(RecipeError, *facts):
        scripted(exporter).run(batches())
    assert not list(tmp_path.glob("*.png"))


def test_weights_that_are_not_finite_are_refused_in_one_line(tmp_path, light):
    with torch.no_grad():
        light.backbone[4][0].weight[0] = float("nan")
    exporter = GradCAMExporter(light, tmp_path, "backbone.4", choice=FEW)
    with refused(NonFiniteError, "backbone.4"):
        scripted(exporter).run(batches())


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("a file")
    exporter = GradCAMExporter(looking(), tmp_path / "file", "0", choice=FEW)
    with refused(CxrIgniteError, tmp_path / "file", "File exists"):
        scripted(exporter).run(batches())


def test_no_name_leaves_the_folder_and_every_image_has_its_own(tmp_path):
    names = [
        "../../outside.png",
        "/etc/passwd",
        "..",
        ".",
        "",
        "a\\..\\b",
        "Röntgen/肺炎.png",
        "肺炎",
        "/deep" * 300 + "/x",
        "x" * 300 + ".png",
        'con: |?*<>"\n\x00\udcff.png',
        "11",
    ]
    known = [{"path": name} for name in names]
    folder = tmp_path / "run" / "maps"
    choice = ImageChoice(kinds=(), indices=range(NUM_IMAGES))
    exporter = GradCAMExporter(looking(), folder, "0", choice=choice, rows=known)
    images = torch.rand(NUM_IMAGES, 1, 4, 4)
    scripted(exporter).run(batches(images=images))
    assert {path.parent for path in tmp_path.rglob("*") if path.is_file()} == {folder}
    assert len(names_in(folder)) == 2 * NUM_IMAGES + 1
    for name in names_in(folder):
        assert name.isascii()
        assert len(name) < 100
        assert not set(name) & set('/\\:|?*<>" \n\0')
    rows = table(folder)
    assert [row["path"] for row in rows[:9]] == names[:9]
    assert [row["picture"][:6] for row in rows] == [f"{n:06d}" for n in range(NUM_IMAGES)]
    assert rows[0]["picture"] == "000000_outside.png"


def test_tensorboard_shows_each_picture_at_its_step(tmp_path):
    board = TensorBoardWriter(tmp_path / "board")
    exporter = GradCAMExporter(looking(), tmp_path / "val", "0", choice=FEW, board=board)
    engine = scripted(exporter)
    for exporter.step, scores in ((3, SCORES), (5, SCORES), (7, LABELS)):
        engine.run(batches(scores=scores))
        if exporter.step == 5:
            drawn = {
                each.name: pixels(tmp_path / "val" / each.picture) for each in exporter.explanations
            }
    board.close()
    events = EventAccumulator(str(tmp_path / "board"), size_guidance={"images": 0}).Reload()
    assert sorted(events.Tags()["images"]) == [f"grad_cam/val/{name}" for name in sorted(drawn)]
    for name, picture in drawn.items():
        images = events.Images(f"grad_cam/val/{name}")
        assert [each.step for each in images] == [3, 5]
        assert np.array_equal(pixels(io.BytesIO(images[1].encoded_image_string)), picture)


def test_images_scores_and_indices_come_through_the_engines_collector(tmp_path):
    class Labelled(torch.Tensor):
        pass

    def an_image_each(engine, batch):
        images, labels, index, scores = batch
        engine.state.batch = [
            {"image": image.as_subclass(Labelled), "label": label, "number": number}
            for image, label, number in zip(images, labels.tolist(), index.tolist(), strict=True)
        ]
        return [
            {"score": score} | each for score, each in zip(scores, engine.state.batch, strict=True)
        ]

    def columns_of(*keys):
        return lambda images: tuple([image[key] for image in images] for key in keys)

    engine = Engine(an_image_each)
    ScoreCollector(columns_of("score", "label"), columns_of("image", "label", "number")).attach(
        engine
    )
    plain, through = (GradCAMExporter(looking(), tmp_path / name, "0", choice=FEW) for name in "ab")
    through.attach(engine)
    engine.run(batches())
    scripted(plain).run(batches())
    assert table(tmp_path / "a") == table(tmp_path / "b") != []
    assert type(through.explanations[0].image) is torch.Tensor


@pytest.mark.parametrize("images", [None, [{"image": 1}, {"image": 2}], torch.zeros(3, 1, 4, 4)])
def test_a_batch_whose_first_part_is_not_the_images_is_refused(images, tmp_path):
    engine = Engine(lambda engine, batch: (torch.zeros(2), torch.zeros(2)))
    GradCAMExporter(looking(), tmp_path, "0").attach(engine)
    with refused(ValueError, "state.batch[0]", "2"):
        engine.run([images if isinstance(images, list) else (images, None)])


@pytest.mark.parametrize(
    ("score", "label", "error", "facts"),
    [
        (float("nan"), 1.0, NonFiniteError, ["1", "5"]),
        (2.5, 1.0, ValueError, ["y_score", "[0, 1]"]),
        (0.5, 0.9, ValueError, ["y_true", "0", "1"]),
    ],
)
def test_what_is_no_score_or_no_label_is_not_drawn(tmp_path, light, score, label, error, facts):
    scores, labels = SCORES.clone(), LABELS.clone()
    scores[0], labels[0] = score, label
    engine = scripted(GradCAMExporter(light, tmp_path, "backbone.4"))
    with refused(error, *facts):
        engine.run(batches(scores=scores, labels=labels))
    assert not (tmp_path / "explain.csv").exists()


def test_beside_a_search_the_found_threshold_decides_and_no_right_call_is_an_error(tmp_path):
    # Scores by index; at 0.5 the first two positives are errors, at the found threshold neither.
    y_score = torch.tensor([0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.8, 0.9])
    y_true = torch.tensor([0.0, 0, 0, 1, 1, 1, 1, 1])
    engine = Engine(lambda engine, batch: (batch[1], batch[2]))
    search = ThresholdSearch(min_tnr=1.0, min_threshold=0.0)
    choice = ImageChoice(kinds=("errors", "most_sure"), max_images=2)
    exporter = GradCAMExporter(looking(), tmp_path, "0", choice=choice, search=search)
    ScoreCollector(batch_transform=lambda batch: (batch[0], batch[2])).attach(engine)
    search.attach(engine)
    exporter.attach(engine)
    images = torch.rand(8, 1, 8, 8)
    engine.run([(images[:4], y_score[:4], y_true[:4]), (images[4:], y_score[4:], y_true[4:])])
    point = search.operating_point
    assert 0.3 < point.threshold <= 0.35
    assert {each.threshold for each in exporter.explanations} == {point.threshold}
    assert {reason for each in exporter.explanations for reason in each.selection} == {"most_sure"}
    # As the same selection from all images at once.
    direct = replace(choice, threshold=point.threshold).of(y_score, y_true.long(), range(8))
    assert [int(each.about["index"]) for each in exporter.explanations] == list(direct)


def test_one_of_several_findings_is_explained(tmp_path):
    torch.manual_seed(3)
    model = LightCNN(width=2, stride=8, num_findings=2).eval()
    nn.init.constant_(model.head[1].weight, 1.0)
    with torch.no_grad():
        model.head[1].weight[1] = torch.linspace(0, 1, 16)
    scores = torch.stack([1 - SCORES, SCORES], dim=1)
    labels = torch.stack([torch.full_like(LABELS, float("nan")), LABELS], dim=1)
    labels[0, 1] = float("nan")  # else the first of the errors
    exporter = GradCAMExporter(model, tmp_path, model.cam_layer, choice=FEW, finding=1)
    scripted(exporter).run(batches(scores=scores, labels=labels))
    rows = table(tmp_path)
    assert len(rows) == len(exporter.explanations) == 2
    for each in exporter.explanations:
        number = int(each.about["index"])
        assert number != 0
        assert each.y_score == SCORES[number].double().item()
        expected = grad_cam(model, IMAGES[number][None], model.cam_layer, output=1)
        torch.testing.assert_close(each.importance, expected.maps[0])
        first = grad_cam(model, IMAGES[number][None], model.cam_layer)
        assert not torch.allclose(each.importance, first.maps[0], atol=0.01)
    unlabelled = GradCAMExporter(
        model, tmp_path / "b", model.cam_layer, choice=ImageChoice(kinds=("most_sure",)), finding=0
    )
    scripted(unlabelled).run(batches(scores=scores, labels=labels))
    assert {each.y_true for each in unlabelled.explanations} == {UNKNOWN_LABEL}


def test_the_threshold_of_the_explained_finding_decides(tmp_path):
    search = ThresholdSearch(min_tnr=0.5, min_threshold=0.1)
    scores = torch.stack([SCORES, SCORES / 2], dim=1)
    labels = torch.stack([(SCORES > 0.5).float()] * 2, dim=1)
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(32 * 32, 2))
    exporter = GradCAMExporter(model, tmp_path, "0", search=search, finding=1)
    engine = Engine(lambda engine, batch: (batch[-1], batch[1]))
    search.attach(engine)
    exporter.attach(engine)
    engine.run(batches(scores=scores, labels=labels))
    assert {each.threshold for each in exporter.explanations} == {
        search.operating_points[1].threshold
    }
    with refused(ValueError, "finding", "2", "5"):
        scripted(GradCAMExporter(model, tmp_path, "0", finding=5)).run(
            batches(scores=scores, labels=labels)
        )
