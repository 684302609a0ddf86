import gc
import logging
import os
import signal
from collections import Counter

import pytest
import torch
from messages import line_with, refused
from monai.transforms import CenterSpatialCrop, Lambda, RandAffine, RandGaussianNoise, Resize
from torch.utils.data import get_worker_info

from cxrignite.data.loading import Batch, LoaderSettings
from cxrignite.data.module import XrayData
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.sampling import balanced_sampler
from cxrignite.data.sources import SPLITS, ImageRecord
from cxrignite.data.split_assignment import split_off
from cxrignite.errors import DataError, RecipeError, UnreadableImageError

CLASSES = ("NORMAL", "PNEUMONIA")


@pytest.fixture
def records(make_images) -> list[ImageRecord]:
    return split_off(make_images(num_normal=12, num_pneumonia=20, num_test=3), "val", 0.2, seed=0)


def make_data(
    records: list[ImageRecord], *, num_workers: int = 0, batch_size: int = 8, **options
) -> XrayData:
    options.setdefault("sampler", balanced_sampler)
    augment = options.pop("augment", [RandAffine(prob=0.9, rotate_range=0.5), RandGaussianNoise()])
    return XrayData(
        records,
        CLASSES,
        pipeline=Pipeline([Resize([16, 16])], augment),
        loader=LoaderSettings(batch_size=batch_size, num_workers=num_workers, prefetch_factor=2),
        seed=3,
        **options,
    )


def bits(batches: list[Batch]) -> list[tuple[bytes, ...]]:
    return [tuple(part.numpy().tobytes() for part in batch) for batch in batches]


def epochs_of(data: XrayData, epochs: list[int]) -> list[list[tuple[bytes, ...]]]:
    loader = data.train_loader()
    passes = []
    for epoch in epochs:
        data.set_epoch(epoch)
        passes.append(bits(list(loader)))
    return passes


def test_a_training_batch_has_the_agreed_form(records):
    data = make_data(records)
    batch = next(iter(data.train_loader()))
    assert isinstance(batch, Batch)
    assert (batch.image.shape, batch.image.dtype) == ((8, 1, 16, 16), torch.float32)
    assert 0.0 <= float(batch.image.min()) < float(batch.image.max()) <= 1.0
    assert (batch.label.shape, batch.label.dtype) == ((8,), torch.float32)
    assert (batch.index.shape, batch.index.dtype) == ((8,), torch.int64)
    labels = data.labels("train")
    assert batch.label.tolist() == [labels[index] for index in batch.index]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_an_evaluation_pass_gives_each_image_once_in_order(records, split):
    data = make_data(records, batch_size=5)
    batches = list(data.eval_loader(split))
    assert torch.cat([batch.index for batch in batches]).tolist() == list(
        range(len(data.records(split)))
    )
    assert torch.cat([batch.label for batch in batches]).tolist() == data.labels(split)
    for batch in batches:
        assert batch.image.dtype == torch.uint8
        for index, image in zip(batch.index.tolist(), batch.image, strict=True):
            assert torch.equal(image, data.pipeline(data.records(split)[index].path))


def test_evaluation_batches_are_as_large_as_the_settings_and_the_split_allow(records):
    data = make_data(records)
    assert data.eval_batch_size("val") == min(data.loader.eval_size, len(data.records("val")))
    assert len(next(iter(data.eval_loader("val"))).label) == data.eval_batch_size("val")


def test_an_epoch_has_the_same_bits_with_no_and_with_two_workers(records, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    alone = epochs_of(make_data(records, num_workers=0), [1, 2])
    helped = epochs_of(make_data(records, num_workers=2), [1, 2])
    assert alone == helped
    assert alone[0] != alone[1]


def test_a_new_module_at_epoch_three_gives_what_one_that_went_there_gives(records):
    went = epochs_of(make_data(records), [1, 2, 3])
    assert epochs_of(make_data(records), [3]) == went[2:]
    early = make_data(records)
    early.set_epoch(3)
    assert bits(list(early.train_loader())) == went[2]


def test_a_pass_broken_off_does_not_shift_the_next(records):
    data = make_data(records)
    data.set_epoch(1)
    next(iter(data.train_loader()))
    assert epochs_of(data, [2]) == epochs_of(make_data(records), [2])


def test_loading_leaves_the_global_random_state_alone(records):
    data = make_data(records)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(data.train_loader())
    list(data.eval_loader("val"))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_sampler_each_image_comes_once_an_epoch_in_new_order(records):
    data = make_data(records, sampler=None, batch_size=5)
    assert len(data.records("train")) % 5 != 1
    loader = data.train_loader()
    orders = []
    for epoch in (1, 2):
        data.set_epoch(epoch)
        orders.append(torch.cat([batch.index for batch in loader]).tolist())
        assert sorted(orders[-1]) == list(range(len(data.records("train"))))
    assert orders[0] != orders[1]


@pytest.mark.parametrize("batch_size", range(2, 14))
def test_no_training_batch_is_a_single_image(records, batch_size):
    data = make_data(records, batch_size=batch_size, sampler=None)
    loader = data.train_loader()
    sizes = [len(batch.label) for batch in loader]
    assert len(sizes) == len(loader)
    assert min(sizes) >= 2
    indices = Counter(torch.cat([batch.index for batch in loader]).tolist())
    assert sorted(indices) == list(range(len(data.records("train"))))
    assert sum(indices.values()) - len(indices) <= 1


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_image_surfaces_with_its_path(records, num_workers):
    data = make_data(records, num_workers=num_workers)
    path = data.records("val")[2].path
    path.write_bytes(path.read_bytes()[:50])
    with refused(UnreadableImageError, path) as caught:
        list(data.eval_loader("val"))
    assert caught.value.path == path


def test_images_of_two_sizes_are_refused_with_the_remedy(records, write_image):
    data = XrayData(records, CLASSES, loader=LoaderSettings(num_workers=0))
    write_image(data.records("train")[3].path, height=30, width=20)
    first, fourth = (data.records("train")[each].path for each in (0, 3))
    with refused(DataError, 24, 32, first, 30, 20, fourth, "data.image_size"):
        list(data.eval_loader("train"))
    # A transform that keeps small images small is found in the same way.
    data = make_data(records)
    data.pipeline.preprocess = (CenterSpatialCrop([26, 26]),)
    with refused(DataError, 24, 26, first, 26, 20, fourth, "data.image_size"):
        list(data.eval_loader("train"))


def worker_facts(image: torch.Tensor) -> torch.Tensor:
    assert get_worker_info() is not None
    facts = (
        signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        torch.get_num_threads() == 1,
    )
    return torch.full_like(image, float(all(facts)))


def test_a_worker_ignores_ctrl_c_and_forgets_the_term_handler(records):
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        data = make_data(records, num_workers=1, augment=[Lambda(worker_facts)])
        assert all(bool(batch.image.all()) for batch in data.train_loader())
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_more_workers_than_cores_are_capped_with_one_line(records, monkeypatch, caplog):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    with caplog.at_level(logging.INFO, logger="cxrignite"):
        data = make_data(records, num_workers=16)
        loaders = [data.train_loader(), data.eval_loader("val")]
    assert [loader.num_workers for loader in loaders] == [1, 1]
    (message,) = caplog.messages
    line_with(message, "num_workers", 16, 1)


def test_workers_stay_between_passes_and_end_with_the_loader(records):
    loader = make_data(records, num_workers=1).eval_loader("test")
    list(loader)
    workers = list(loader._iterator._workers)
    list(loader)
    assert loader._iterator._workers == workers
    assert workers[0].is_alive()
    del loader
    gc.collect()
    workers[0].join(10)
    assert not workers[0].is_alive()


def test_training_and_evaluating_the_train_split_are_two_loaders(records):
    data = make_data(records)
    assert data.train_loader() is data.train_loader()
    assert data.eval_loader("train") is data.eval_loader("train")
    assert next(iter(data.train_loader())).image.dtype == torch.float32
    batch = next(iter(data.eval_loader("train")))
    assert batch.image.dtype == torch.uint8
    assert batch.index.tolist() == list(range(16))


def test_closing_ends_all_workers_and_a_later_loader_starts_anew(records):
    data = make_data(records, num_workers=1)
    loaders = [data.train_loader(), data.eval_loader("val")]
    before = [bits(list(loader)) for loader in loaders]
    workers = [worker for loader in loaders for worker in loader._iterator._workers]
    data.close()
    data.close()
    assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)
    assert [
        bits(list(loader)) for loader in (data.train_loader(), data.eval_loader("val"))
    ] == before


def test_the_splits_are_those_with_images(records):
    assert make_data(records).splits == ["train", "val", "test"]
    assert make_data([record for record in records if record.split != "val"]).splits == [
        "train",
        "test",
    ]


def test_the_defaults_are_those_of_the_reference(records):
    data = XrayData(records, CLASSES)
    loader = data.train_loader()
    assert data.loader == LoaderSettings(batch_size=32, num_workers=4, prefetch_factor=4)
    assert loader.batch_size == 32
    assert not loader.drop_last
    assert loader.persistent_workers
    assert loader.prefetch_factor == 4
    assert loader.pin_memory == torch.cuda.is_available()


def test_counts_labels_and_images_agree(records):
    data = make_data(records)
    for split in ("train", "val", "test"):
        assert data.records(split) == [record for record in records if record.split == split]
        assert data.labels(split) == [record.label for record in data.records(split)]
        counts = data.class_counts(split)
        assert counts == (data.labels(split).count(0), data.labels(split).count(1))
    assert data.class_counts("test") == (3, 3)


def test_an_unknown_split_is_refused(records):
    data = make_data(records)
    asks = (data.records, data.labels, data.class_counts, data.eval_loader, data.eval_batch_size)
    for ask in asks:
        with refused(DataError, "split", *SPLITS, "'dev'"):
            ask("dev")


def test_a_split_without_images_has_no_loader(records):
    data = make_data([record for record in records if record.split == "train"][:1])
    with refused(DataError, "'val'", 0):
        data.eval_loader("val")
    with refused(DataError, 2, 1):
        data.train_loader()


def test_balanced_sampling_of_one_class_is_refused(records):
    data = make_data([record for record in records if record.label == 1])
    with refused(DataError, 0, len(data.labels("train"))):
        data.train_loader()


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"batch_size": 0}, ["batch_size", "1", "0"]),
        ({"num_workers": -1}, ["num_workers", "0", "-1"]),
        ({"prefetch_factor": 0}, ["prefetch_factor", "1", "0"]),
        ({"worker_timeout": 0}, ["worker_timeout", "above 0"]),
    ],
)
def test_loader_settings_out_of_range_are_refused(settings, facts):
    with refused(RecipeError, *facts):
        LoaderSettings(**settings)


def test_the_drawn_prevalence_is_what_the_sampler_makes_of_it(records):
    from torch.utils.data import RandomSampler, WeightedRandomSampler

    from cxrignite.data import BalancedSampler

    def only_positives(labels, seed):
        return [index for index, label in enumerate(labels) if label == 1]

    def weighted(labels, seed):
        return WeightedRandomSampler([3.0 if label else 1.0 for label in labels], len(labels))

    labels = make_data(records).labels("train")
    probability = sum(labels) / len(labels)
    drawn = [
        (None, probability),
        (BalancedSampler, 0.5),
        (weighted, 3 * probability / (3 * probability + 1 - probability)),
        (lambda labels, seed: RandomSampler(labels), probability),
        (only_positives, 1.0),
    ]
    for sampler, share in drawn:
        assert make_data(records, sampler=sampler).drawn_prevalence() == pytest.approx(share)


def test_of_more_processes_than_images_each_has_a_batch():
    from cxrignite.data.loading import PlainDraws

    draws = [[index for index, _ in PlainDraws(3, rank, 5)] for rank in range(5)]
    assert draws == [[0], [1], [2], [0], [0]]
