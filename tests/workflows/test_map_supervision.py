import logging

import pytest
import torch
from messages import line_with, refused
from torch import nn

from cxrignite.data import LoaderSettings, Phantom, Pipeline, RandomAffine, XrayData
from cxrignite.data.masks import read_mask
from cxrignite.engines import create_trainer
from cxrignite.errors import DataError
from cxrignite.functional import energy_inside, grad_cam
from cxrignite.nn import LightCNN, MapEnergyLoss
from cxrignite.workflows.map_supervision import build_map_term

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    found = Phantom(tmp_path_factory.mktemp("phantom"), num_train=48, num_test=4, size=64)
    found.records()
    return found


def data_of(source, change=lambda record: record):
    return XrayData(
        [change(record) for record in source.records()],
        source.classes,
        pipeline=Pipeline(batch_augment=[RandomAffine()]),
        loader=LoaderSettings(batch_size=16, num_workers=0),
    )


def train(source, loss, epochs=6):
    """Train a small network; return it, and the share of its maps inside the masks."""
    torch.manual_seed(0)
    model, data = LightCNN(width=4, stride=8, dropout=0.0), data_of(source)
    term = build_map_term(loss, model, data, source.root, CPU)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    trainer = create_trainer(
        model, optimizer, nn.BCEWithLogitsLoss(), device="cpu", extra_loss=term
    )
    trainer.run(data.train_loader(), max_epochs=epochs)
    positive = [record for record in data.records("train") if record.label]
    images = torch.stack([data.pipeline.read(record.path) for record in positive])
    masks = torch.cat([read_mask(each, source.root, data.pipeline) for each in positive]) > 127
    maps = grad_cam(model, images, model.cam_layer).maps
    return model, energy_inside(maps, masks).energy.mean().item()


def test_masks_draw_the_maps_into_the_finding(source, caplog):
    caplog.set_level(logging.INFO)
    _, without = train(source, None)
    assert "masks" not in caplog.text
    _, taught = train(source, MapEnergyLoss(1.0))
    num_positive = sum(each.label for each in source.records() if each.split == "train")
    line_with("\n".join(caplog.messages), f"{num_positive} masks")
    assert taught > 1.3 * without


def test_images_without_a_mask_train_as_without_the_loss(source):
    def but_one(record):
        is_kept = record.name == kept
        return record if is_kept else record._replace(attributes={})

    kept = next(each.name for each in source.records() if each.label)
    model, data = LightCNN(width=4, stride=8), data_of(source, but_one)
    term = build_map_term(MapEnergyLoss(), model, data, source.root, CPU)
    index = next(n for n, each in enumerate(data.records("train")) if each.name == kept)
    others = torch.tensor([each for each in range(48) if each != index][:8])
    images, labels, seeds = torch.rand(8, 1, 64, 64), torch.ones(8), torch.arange(8)
    assert term(model(images), (images, labels, others, seeds)) is None
    with_one = torch.cat([others[:7], torch.tensor([index])])
    value = term(model(images), (images, labels, with_one, seeds))
    assert value.ndim == 0
    assert value > 0


def test_data_without_any_mask_are_refused(source):
    data = data_of(source, lambda record: record._replace(attributes={}))
    with refused(DataError, "map_loss", "none of 29"):
        build_map_term(MapEnergyLoss(), LightCNN(4), data, source.root, CPU)
