"""Maps of an evaluation that two real processes share."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from messages import line_with
from pair import run_pair
from torch import nn

from cxrignite.functional import ImageChoice
from cxrignite.handlers import GradCAMExporter

pytestmark = pytest.mark.integration
NUM_IMAGES = 13  # a sampler fills the second process's share up with the first image
CHOICES = {
    "all kinds": ImageChoice(max_images=3, indices=(11, 4)),
    "one has none": ImageChoice(kinds=("errors",)),
    "none has any": ImageChoice(kinds=(), indices=(99,)),
}


def explain(folder, rank, world):
    """Explain each process's share; its own folder tells who has written."""
    random = torch.Generator().manual_seed(2)
    images = torch.rand(NUM_IMAGES, 1, 4, 4, generator=random)
    scores = torch.rand(NUM_IMAGES, generator=random).mul(10).round() / 10
    # Only images of the first process are called wrongly.
    labels = (scores >= 0.5).float()
    labels[[0, 2, 8]] = 1 - labels[[0, 2, 8]]
    order = torch.arange(NUM_IMAGES + NUM_IMAGES % world) % NUM_IMAGES
    batches = [(images[i], labels[i], i, scores[i]) for i in order[rank::world].split(3)]
    model = nn.Sequential(
        nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 1, bias=False)
    )
    nn.init.constant_(model[3].weight, 1.0)
    counts = {}
    for name, choice in CHOICES.items():
        exporter = GradCAMExporter(model, folder / str(rank) / name, "0", choice=choice)
        engine = Engine(lambda engine, batch: (batch[-1], batch[1]))
        exporter.attach(engine)
        engine.run(batches)
        counts[name] = len(exporter.explanations)
    return counts


def explain_in_process(rank):
    folder = Path.cwd()
    counts = explain(folder, rank, 2)
    exporter = GradCAMExporter(nn.Identity(), folder, "0")
    engine = Engine(lambda engine, batch: batch)
    exporter.attach(engine)
    with pytest.raises(ValueError, match="index") as caught:
        engine.run([(torch.rand(2), torch.zeros(2))])
    return counts, str(caught.value)


@pytest.fixture(scope="module")
def results(_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    return folder, run_pair(explain_in_process, folder)


@pytest.fixture
def shared(results):
    return results[0]


def rows(folder):
    with open(folder / "explain.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", CHOICES)
def test_two_processes_explain_what_one_explains_each_image_once(shared, tmp_path, name):
    explain(tmp_path, 0, 1)
    alone, together = tmp_path / "0" / name, shared / "0" / name
    files = sorted(path.name for path in alone.iterdir())
    assert sorted(path.name for path in together.iterdir()) == files
    for file in files:
        assert (together / file).read_bytes() == (alone / file).read_bytes()
    index = [row["index"] for row in rows(together)]
    assert len(index) == len(set(index)) == (len(files) - 1) // 2


def test_what_is_shared_comes_from_both_processes_or_from_one(shared):
    chosen = {name: {int(row["index"]) for row in rows(shared / "0" / name)} for name in CHOICES}
    assert {number % 2 for number in chosen["all kinds"]} == {0, 1}
    assert chosen["one has none"] == {0, 2, 8}
    assert chosen["none has any"] == set()


def test_only_the_first_process_writes(results):
    shared, ((first, _), (second, _)) = results
    assert not (shared / "1").exists()
    assert first["one has none"] == 3
    assert set(second.values()) == {0}


def test_without_an_index_several_processes_are_refused(results):
    for _, message in results[1]:
        assert line_with(message, "index", "state.batch[2]") == message
