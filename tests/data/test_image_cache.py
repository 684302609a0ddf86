import json
import os
import pickle
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from messages import line_with, missing, refused
from monai.transforms import Compose, GaussianSmooth, Lambda, Resize
from PIL import Image

from cxrignite.data.cache_building import RESERVED_BYTES, open_cache
from cxrignite.data.image_cache import ImageCache
from cxrignite.data.inspection import inspect_images
from cxrignite.data.loading import LoaderSettings
from cxrignite.data.module import XrayData
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.sources import ImageRecord
from cxrignite.errors import CacheError, DataError, UnreadableImageError

PIPELINE = Pipeline(image_size=(16, 20))


@pytest.fixture
def records(make_images) -> list[ImageRecord]:
    return hashed(make_images(num_normal=5, num_pneumonia=6, num_test=2))


def hashed(records: list[ImageRecord]) -> list[ImageRecord]:
    return inspect_images(records, decode=False).records


def assert_true(
    cache: ImageCache, records: list[ImageRecord], pipeline: Pipeline = PIPELINE
) -> None:
    """Every image of the cache is the one that is read now."""
    for record in records:
        assert torch.equal(cache.image(record), pipeline.read(record.path)), record.name


def caches_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npy"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_cache_holds_what_the_pipeline_gives(records, tmp_path, num_workers):
    cache = open_cache(tmp_path / "cache", records, PIPELINE, num_workers=num_workers)
    assert cache.image_size == (16, 20)
    assert_true(cache, records)
    names = {path.name for path in (tmp_path / "cache").iterdir()}
    stem = cache.path.stem
    assert names == {f"{stem}.npy", f"{stem}.json", "caches.lock"}


def test_a_second_opening_reads_the_same_file(records, tmp_path):
    first = open_cache(tmp_path, records, PIPELINE)
    written = first.path.stat().st_mtime_ns
    again = open_cache(tmp_path, list(reversed(records)), Pipeline(image_size=(16, 20)))
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, written)
    assert_true(again, records)


def test_images_of_the_same_content_share_an_image(records, tmp_path):
    twin = records[0]._replace(file=str(tmp_path / "twin.png"), name="twin.png")
    twin.path.write_bytes(records[0].path.read_bytes())
    cache = open_cache(tmp_path / "cache", [*records, twin], PIPELINE)
    assert cache.num_bytes == len({record.sha256 for record in records}) * 16 * 20
    assert torch.equal(cache.image(twin), cache.image(records[0]))


def test_a_split_gives_images_in_its_own_order(records, tmp_path):
    cache = open_cache(tmp_path, records, PIPELINE)
    some = [records[4], records[1], records[8]]
    images = cache.split(some).images(torch.tensor([2, 0]))
    expected = torch.stack([PIPELINE.read(record.path) for record in (records[8], records[4])])
    assert torch.equal(images, expected)
    images.zero_()  # their memory is their own
    assert_true(cache, records)


def test_a_split_travels_without_its_images(records, tmp_path):
    split = open_cache(tmp_path, records, PIPELINE).split(records)
    split.images(torch.tensor([0]))
    travelled = pickle.loads(pickle.dumps(split))
    assert len(pickle.dumps(split)) < 2000
    assert torch.equal(travelled.images(torch.tensor([3])), split.images(torch.tensor([3])))


def test_a_strange_image_is_refused_by_name(records, tmp_path):
    cache = open_cache(tmp_path, records[1:], PIPELINE)
    with pytest.raises(DataError) as caught:
        cache.split(records)
    # The name of the cache is that of the code and the images, and not for the file of messages.
    assert missing(str(caught.value), [cache.path, records[0].name]) == []


# Promise 21: a cache is never stale.


def test_an_edited_image_makes_another_cache(records, tmp_path):
    first = open_cache(tmp_path / "cache", records, PIPELINE)
    pixels = np.array(Image.open(records[0].path))
    pixels[3, 4] ^= 1
    before = records[0].path.stat()
    Image.fromarray(pixels).save(records[0].path)
    os.utime(records[0].path, ns=(before.st_atime_ns, before.st_mtime_ns))
    records = hashed(records)
    second = open_cache(tmp_path / "cache", records, PIPELINE)
    assert second.path != first.path
    assert_true(second, records)


@pytest.mark.parametrize(
    "changed",
    [
        Pipeline(image_size=(20, 16)),
        Pipeline([Resize([16, 20])]),
        Pipeline([Resize([16, 20], mode="bilinear")]),
        Pipeline([GaussianSmooth(1.0)], image_size=(16, 20)),
        Pipeline([GaussianSmooth(1.5)], image_size=(16, 20)),
    ],
)
def test_another_pipeline_makes_another_cache(records, tmp_path, changed):
    first = open_cache(tmp_path, records, PIPELINE)
    second = open_cache(tmp_path, records, changed)
    assert first.path != second.path
    assert_true(second, records, changed)
    assert open_cache(tmp_path, records, changed).path == second.path


def test_all_fingerprints_differ_and_stay():
    settings = ([], [GaussianSmooth(1.0)], [GaussianSmooth(1.5)], [Resize([8, 8])])
    prints = [Pipeline(each).fingerprint() for each in settings]
    assert len(set(prints)) == 4
    assert prints == [Pipeline(each).fingerprint() for each in settings]
    # Augmentation comes after the cache.
    assert Pipeline([], [GaussianSmooth(1.0)]).fingerprint() == prints[0]


OWN_TRANSFORM = """
from monai.transforms import Transform

class Darker(Transform):
    def __call__(self, image):
        return image * {factor}
"""


@pytest.mark.integration
def test_an_own_transform_whose_code_changed_makes_another_cache(tmp_path, python):
    program = (
        "import sys; sys.dont_write_bytecode = True\n"
        "from darker import Darker\n"
        "from cxrignite.data.pipeline import Pipeline\n"
        "print(Pipeline([Darker()]).fingerprint())"
    )
    prints = []
    for factor in (0.5, 0.25):
        (tmp_path / "darker.py").write_text(OWN_TRANSFORM.format(factor=factor))
        done = python("-c", program)
        assert done.returncode == 0, done.stderr
        prints.append(done.stdout)
    assert len(set(prints)) == 2
    assert all(prints)


@pytest.fixture
def own_package(tmp_path, monkeypatch):
    """A transform in a package of one's own whose mathematics stands in other files."""
    files = {
        "mine/__init__.py": "",
        # No subclass of a library's class: one would outlive its module in `__subclasses__`,
        # where the parser of another test's recipe meets it.
        "mine/dark.py": "from . import levels\n"
        "class Darker:\n    def __call__(self, image):\n"
        "        import helper_of_mine\n        return levels.lower(image)\n",
        "mine/levels.py": "from mine.constants import FACTOR\n"
        "def lower(image):\n    return image * FACTOR\n",
        "mine/constants.py": "FACTOR = 0.5\n",
        "helper_of_mine.py": "",
        "stranger.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("mine", "helper_of_mine"):
            del sys.modules[name]


@pytest.mark.parametrize("around", [list, Compose])
def test_what_an_own_transform_imports_makes_another_cache_and_nothing_else_does(
    own_package, around
):
    from mine.dark import Darker

    transforms = around([Darker()])
    pipeline = Pipeline(transforms if isinstance(transforms, list) else [transforms])
    prints = [pipeline.fingerprint()]
    for name in ("mine/levels.py", "mine/constants.py", "helper_of_mine.py", "mine/__init__.py"):
        with (own_package / name).open("a") as file:
            file.write("# changed\n")
        prints.append(pipeline.fingerprint())
    assert len(set(prints)) == len(prints)
    (own_package / "stranger.py").write_text("# changed")
    assert pipeline.fingerprint() == prints[-1]


def test_code_that_changed_out_of_sight_is_found_by_reading_a_few_images_again(
    records, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(Pipeline, "fingerprint", lambda self: "the same")
    first = open_cache(tmp_path, records, PIPELINE)
    read = Pipeline.read_and_judge
    monkeypatch.setattr(
        Pipeline, "read_and_judge", lambda self, path: (255 - read(self, path)[0], False)
    )
    second = open_cache(tmp_path, records, PIPELINE)
    assert second.path == first.path
    (message,) = set(caplog.messages)
    assert missing(message, [first.path, min(records, key=lambda record: record.sha256).name]) == []
    assert_true(second, records)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def replaced(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 3), dtype=np.float32))


@pytest.mark.parametrize("damage", [cut, grown, emptied, flipped, replaced, Path.unlink])
@pytest.mark.parametrize("suffix", [".npy", ".json"])
def test_a_damaged_cache_is_built_anew(records, tmp_path, damage, suffix):
    path = open_cache(tmp_path, records, PIPELINE).path
    damage(path.with_suffix(suffix))
    cache = open_cache(tmp_path, records, PIPELINE)
    assert cache.path == path
    assert_true(cache, records)


# Images that cannot be read.


def test_unreadable_images_are_named_and_the_others_cached(records, tmp_path):
    records[2].path.write_bytes(records[2].path.read_bytes()[:60])
    records = hashed(records)
    for _ in range(2):  # built, opened
        cache = open_cache(tmp_path / "cache", records, PIPELINE)
        assert list(cache.unreadable) == [records[2].sha256]
        assert_true(cache, [record for record in records if record is not records[2]])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_cache_obeys_the_grey_scaling_and_names_images_that_are_nearly_blank(
    records, tmp_path, num_workers
):
    values = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
    Image.fromarray(values).save(records[2].path)
    records = hashed(records)
    for scaling, blank in (("file", []), ("stored", [records[2].sha256]), ("percentiles", [])):
        pipeline = Pipeline(grey_scaling=scaling)
        for _ in range(2):  # built, opened
            cache = open_cache(tmp_path / "cache", records, pipeline, num_workers=num_workers)
            assert sorted(cache.nearly_blank) == blank
            assert_true(cache, records, pipeline)
    assert len(caches_in(tmp_path / "cache")) >= 3


def test_no_readable_image_is_an_error_that_leaves_nothing(records, tmp_path):
    for number, record in enumerate(records):
        record.path.write_bytes(b"no image %d" % number)
    with refused(UnreadableImageError, "JPEG", "PNG", "DICOM") as caught:
        open_cache(tmp_path / "cache", hashed(records), PIPELINE)
    assert caught.value.path in [record.path for record in records]
    assert caches_in(tmp_path / "cache") == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_images_of_several_sizes_are_refused_with_the_remedy(records, tmp_path, num_workers):
    Image.new("L", (30, 40)).save(records[3].path)
    with refused(DataError, 24, 32, 40, 30, records[3].path, "data.image_size"):
        open_cache(tmp_path / "cache", hashed(records), Pipeline(), num_workers=num_workers)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["caches.lock"]


# Folders that cannot keep a cache.


def test_a_transform_that_cannot_be_written_down_is_refused(records, tmp_path):
    with pytest.raises(CacheError) as caught:
        open_cache(tmp_path, records, Pipeline([Lambda(lambda image: image)]))
    # The rest is what Python says, which differs from one version to the next.
    line_with(str(caught.value).partition(":")[0], "Lambda")


def test_a_folder_that_is_a_file_is_refused(records, tmp_path):
    (tmp_path / "cache").write_text("")
    with refused(CacheError, tmp_path / "cache"):
        open_cache(tmp_path / "cache", records, PIPELINE)


def test_a_disk_without_room_is_refused_before_anything_is_written(records, tmp_path, monkeypatch):
    caches, needed = tmp_path / "cache", len(records) * 16 * 20 + RESERVED_BYTES
    free = {caches: needed - 1}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[path]))
    with refused(CacheError, caches, "4,800", "1,073,741,824", "1,073,746,623"):
        open_cache(caches, records, PIPELINE)
    assert [path.name for path in caches.iterdir()] == ["caches.lock"]
    free[caches] = needed
    assert_true(open_cache(caches, records, PIPELINE), records)


# Promise 20: two at once.

BUILDER = """
import sys, time
from pathlib import Path
from cxrignite.data.inspection import inspect_images
from cxrignite.data.cache_building import open_cache
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.class_folders import ClassFolders

class Slow(Pipeline):
    def read(self, path):
        time.sleep(0.05)
        return super().read(path)

root, caches, start = map(Path, sys.argv[1:])
records = inspect_images(ClassFolders(root).records(), decode=False).records
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
cache = open_cache(caches, records, Slow(image_size=(16, 20)))
print(cache.path, cache.path.stat().st_mtime_ns, cache.path.stat().st_ino)
"""


@pytest.mark.integration
def test_two_processes_at_once_build_one_cache(records, tmp_path, start):
    program = ["-c", BUILDER, records[0].path.parents[2], tmp_path / "cache", tmp_path / "go"]
    both = [start(program, cwd=tmp_path) for _ in range(2)]
    for process in both:
        process.wait_for_output("ready")
    (tmp_path / "go").touch()
    assert [process.wait() for process in both] == [0, 0], both[0].errors + both[1].errors
    files = [process.output.splitlines()[1] for process in both]
    assert files[0] == files[1]  # the same file, written once
    assert len(caches_in(tmp_path / "cache")) == 1
    assert not list((tmp_path / "cache").glob(".*"))


@pytest.mark.integration
def test_a_builder_that_was_killed_leaves_nothing_for_long(records, tmp_path, start):
    root, caches = records[0].path.parents[2], tmp_path / "cache"
    process = start(["-c", BUILDER, root, caches, root], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(caches.glob(".*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert caches_in(caches) == []
    assert list(caches.glob(".*.tmp"))
    assert_true(open_cache(caches, records, PIPELINE), records)
    assert not list(caches.glob(".*.tmp"))


# Loaders.


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_from_a_cache_are_those_from_the_files(records, tmp_path, num_workers):
    from monai.transforms import RandAffine

    pipeline = Pipeline([], [RandAffine(prob=0.8, rotate_range=0.4)], image_size=(16, 20))
    cache = open_cache(tmp_path, records, pipeline)
    settings = LoaderSettings(batch_size=4, num_workers=num_workers)
    both = []
    for each in (None, cache):
        data = XrayData(records, ("A", "B"), pipeline=pipeline, cache=each, loader=settings, seed=5)
        both.append([*data.train_loader(), *data.eval_loader("train")])
        data.close()
    for read, cached in zip(*both, strict=True):
        for one, other in zip(read, cached, strict=True):
            assert torch.equal(one, other)


def test_a_loader_that_only_copies_has_no_workers(records, tmp_path):
    pipeline = Pipeline(image_size=(16, 20))
    settings = LoaderSettings(batch_size=4, num_workers=1)
    cache = open_cache(tmp_path, records, pipeline)
    cached = XrayData(records, ("A", "B"), pipeline=pipeline, cache=cache, loader=settings)
    unpacked = XrayData(records, ("A", "B"), pipeline=pipeline, loader=settings)
    assert cached.train_loader().num_workers == cached.eval_loader("train").num_workers == 0
    assert unpacked.train_loader().num_workers == unpacked.eval_loader("train").num_workers == 1


def test_the_manifest_says_what_the_images_are(records, tmp_path):
    path = open_cache(tmp_path, records, PIPELINE).path
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["bytes"] == path.stat().st_size
    assert manifest["unreadable"] == {}


def test_a_image_that_could_not_be_read_for_a_moment_is_cached_the_next_time(records, tmp_path):
    away = records[2].path.with_suffix(".away")
    records[2].path.rename(away)
    assert list(open_cache(tmp_path, records, PIPELINE).unreadable) == [records[2].sha256]
    away.rename(records[2].path)
    cache = open_cache(tmp_path, records, PIPELINE)
    assert cache.unreadable == {}
    assert_true(cache, records)


def test_a_deleted_cache_is_read_to_the_end(records, tmp_path):
    cache = open_cache(tmp_path, records, PIPELINE)
    for path in tmp_path.glob(f"{cache.path.stem}.*"):
        path.unlink()
    assert_true(cache, records)


def test_a_limit_of_memory_counts(records, tmp_path, monkeypatch):
    cache = open_cache(tmp_path / "cache", records, PIPELINE)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("cxrignite.data.image_cache._CGROUP_LIMIT", limit)
    for text, fits in (("max\n", True), (f"{3 * cache.num_bytes}\n", True), ("1000\n", False)):
        limit.write_text(text)
        assert cache.fits_in_memory is fits
