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

from cxrignite.data.inspection import inspect_films
from cxrignite.data.loading import LoaderSettings
from cxrignite.data.module import XrayData
from cxrignite.data.pack_building import RESERVED_BYTES, open_pack
from cxrignite.data.packing import Pack
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.sources import Film
from cxrignite.errors import DataError, PackError, UnreadableImageError

PIPELINE = Pipeline(image_size=(16, 20))


@pytest.fixture
def films(make_films) -> list[Film]:
    return hashed(make_films(num_normal=5, num_pneumonia=6, num_test=2))


def hashed(films: list[Film]) -> list[Film]:
    return inspect_films(films, decode=False).films


def assert_true(pack: Pack, films: list[Film], pipeline: Pipeline = PIPELINE) -> None:
    """Every image of the pack is the one that is read now."""
    for film in films:
        assert torch.equal(pack.image(film), pipeline.read(film.path)), film.name


def packs_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.npy"))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_pack_holds_what_the_pipeline_gives(films, tmp_path, num_workers):
    pack = open_pack(tmp_path / "packs", films, PIPELINE, num_workers=num_workers)
    assert pack.image_size == (16, 20)
    assert_true(pack, films)
    names = {path.name for path in (tmp_path / "packs").iterdir()}
    stem = pack.path.stem
    assert names == {f"{stem}.npy", f"{stem}.json", "packs.lock"}


def test_a_second_opening_reads_the_same_file(films, tmp_path):
    first = open_pack(tmp_path, films, PIPELINE)
    written = first.path.stat().st_mtime_ns
    again = open_pack(tmp_path, list(reversed(films)), Pipeline(image_size=(16, 20)))
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, written)
    assert_true(again, films)


def test_films_of_the_same_content_share_an_image(films, tmp_path):
    twin = films[0]._replace(file=str(tmp_path / "twin.png"), name="twin.png")
    twin.path.write_bytes(films[0].path.read_bytes())
    pack = open_pack(tmp_path / "packs", [*films, twin], PIPELINE)
    assert pack.num_bytes == len({film.sha256 for film in films}) * 16 * 20
    assert torch.equal(pack.image(twin), pack.image(films[0]))


def test_a_split_gives_images_in_its_own_order(films, tmp_path):
    pack = open_pack(tmp_path, films, PIPELINE)
    some = [films[4], films[1], films[8]]
    images = pack.split(some).images(torch.tensor([2, 0]))
    expected = torch.stack([PIPELINE.read(film.path) for film in (films[8], films[4])])
    assert torch.equal(images, expected)
    images.zero_()  # their memory is their own
    assert_true(pack, films)


def test_a_split_travels_without_its_images(films, tmp_path):
    split = open_pack(tmp_path, films, PIPELINE).split(films)
    split.images(torch.tensor([0]))
    travelled = pickle.loads(pickle.dumps(split))
    assert len(pickle.dumps(split)) < 2000
    assert torch.equal(travelled.images(torch.tensor([3])), split.images(torch.tensor([3])))


def test_a_strange_film_is_refused_by_name(films, tmp_path):
    pack = open_pack(tmp_path, films[1:], PIPELINE)
    with pytest.raises(DataError) as caught:
        pack.split(films)
    # The name of the pack is that of the code and the films, and not for the file of messages.
    assert missing(str(caught.value), [pack.path, films[0].name]) == []


# Promise 21: a pack is never stale.


def test_an_edited_image_makes_another_pack(films, tmp_path):
    first = open_pack(tmp_path / "packs", films, PIPELINE)
    pixels = np.array(Image.open(films[0].path))
    pixels[3, 4] ^= 1
    before = films[0].path.stat()
    Image.fromarray(pixels).save(films[0].path)
    os.utime(films[0].path, ns=(before.st_atime_ns, before.st_mtime_ns))
    films = hashed(films)
    second = open_pack(tmp_path / "packs", films, PIPELINE)
    assert second.path != first.path
    assert_true(second, films)


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
def test_another_pipeline_makes_another_pack(films, tmp_path, changed):
    first = open_pack(tmp_path, films, PIPELINE)
    second = open_pack(tmp_path, films, changed)
    assert first.path != second.path
    assert_true(second, films, changed)
    assert open_pack(tmp_path, films, changed).path == second.path


def test_all_fingerprints_differ_and_stay():
    settings = ([], [GaussianSmooth(1.0)], [GaussianSmooth(1.5)], [Resize([8, 8])])
    prints = [Pipeline(each).fingerprint() for each in settings]
    assert len(set(prints)) == 4
    assert prints == [Pipeline(each).fingerprint() for each in settings]
    # Augmentation comes after the pack.
    assert Pipeline([], [GaussianSmooth(1.0)]).fingerprint() == prints[0]


OWN_TRANSFORM = """
from monai.transforms import Transform

class Darker(Transform):
    def __call__(self, image):
        return image * {factor}
"""


@pytest.mark.integration
def test_an_own_transform_whose_code_changed_makes_another_pack(tmp_path, python):
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
def test_what_an_own_transform_imports_makes_another_pack_and_nothing_else_does(
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


def test_code_that_changed_out_of_sight_is_found_by_reading_a_few_films_again(
    films, tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(Pipeline, "fingerprint", lambda self: "the same")
    first = open_pack(tmp_path, films, PIPELINE)
    read = Pipeline.read_and_judge
    monkeypatch.setattr(
        Pipeline, "read_and_judge", lambda self, path: (255 - read(self, path)[0], False)
    )
    second = open_pack(tmp_path, films, PIPELINE)
    assert second.path == first.path
    (message,) = set(caplog.messages)
    assert missing(message, [first.path, min(films, key=lambda film: film.sha256).name]) == []
    assert_true(second, films)


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
def test_a_damaged_pack_is_built_anew(films, tmp_path, damage, suffix):
    path = open_pack(tmp_path, films, PIPELINE).path
    damage(path.with_suffix(suffix))
    pack = open_pack(tmp_path, films, PIPELINE)
    assert pack.path == path
    assert_true(pack, films)


# Films that cannot be read.


def test_unreadable_films_are_named_and_the_others_packed(films, tmp_path):
    films[2].path.write_bytes(films[2].path.read_bytes()[:60])
    films = hashed(films)
    for _ in range(2):  # built, opened
        pack = open_pack(tmp_path / "packs", films, PIPELINE)
        assert list(pack.unreadable) == [films[2].sha256]
        assert_true(pack, [film for film in films if film is not films[2]])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_pack_obeys_the_grey_scaling_and_names_films_that_are_nearly_blank(
    films, tmp_path, num_workers
):
    values = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32)
    Image.fromarray(values).save(films[2].path)
    films = hashed(films)
    for scaling, blank in (("file", []), ("stored", [films[2].sha256]), ("percentiles", [])):
        pipeline = Pipeline(grey_scaling=scaling)
        for _ in range(2):  # built, opened
            pack = open_pack(tmp_path / "packs", films, pipeline, num_workers=num_workers)
            assert sorted(pack.nearly_blank) == blank
            assert_true(pack, films, pipeline)
    assert len(packs_in(tmp_path / "packs")) >= 3


def test_no_readable_film_is_an_error_that_leaves_nothing(films, tmp_path):
    for number, film in enumerate(films):
        film.path.write_bytes(b"no image %d" % number)
    with refused(UnreadableImageError, "JPEG", "PNG", "DICOM") as caught:
        open_pack(tmp_path / "packs", hashed(films), PIPELINE)
    assert caught.value.path in [film.path for film in films]
    assert packs_in(tmp_path / "packs") == []


@pytest.mark.parametrize("num_workers", [0, 1])
def test_images_of_several_sizes_are_refused_with_the_remedy(films, tmp_path, num_workers):
    Image.new("L", (30, 40)).save(films[3].path)
    with refused(DataError, 24, 32, 40, 30, films[3].path, "data.image_size"):
        open_pack(tmp_path / "packs", hashed(films), Pipeline(), num_workers=num_workers)
    assert [path.name for path in (tmp_path / "packs").iterdir()] == ["packs.lock"]


# Folders that cannot keep a pack.


def test_a_transform_that_cannot_be_written_down_is_refused(films, tmp_path):
    with pytest.raises(PackError) as caught:
        open_pack(tmp_path, films, Pipeline([Lambda(lambda image: image)]))
    # The rest is what Python says, which differs from one version to the next.
    line_with(str(caught.value).partition(":")[0], "Lambda")


def test_a_folder_that_is_a_file_is_refused(films, tmp_path):
    (tmp_path / "packs").write_text("")
    with refused(PackError, tmp_path / "packs"):
        open_pack(tmp_path / "packs", films, PIPELINE)


def test_a_disk_without_room_is_refused_before_anything_is_written(films, tmp_path, monkeypatch):
    packs, needed = tmp_path / "packs", len(films) * 16 * 20 + RESERVED_BYTES
    free = {packs: needed - 1}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[path]))
    with refused(PackError, packs, "4,800", "1,073,741,824", "1,073,746,623"):
        open_pack(packs, films, PIPELINE)
    assert [path.name for path in packs.iterdir()] == ["packs.lock"]
    free[packs] = needed
    assert_true(open_pack(packs, films, PIPELINE), films)


# Promise 20: two at once.

BUILDER = """
import sys, time
from pathlib import Path
from cxrignite.data.inspection import inspect_films
from cxrignite.data.pack_building import open_pack
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.sources import ClassFolders

class Slow(Pipeline):
    def read(self, path):
        time.sleep(0.05)
        return super().read(path)

root, packs, start = map(Path, sys.argv[1:])
films = inspect_films(ClassFolders(root).films(), decode=False).films
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
pack = open_pack(packs, films, Slow(image_size=(16, 20)))
print(pack.path, pack.path.stat().st_mtime_ns, pack.path.stat().st_ino)
"""


@pytest.mark.integration
def test_two_processes_at_once_build_one_pack(films, tmp_path, start):
    program = ["-c", BUILDER, films[0].path.parents[2], tmp_path / "packs", tmp_path / "go"]
    both = [start(program, cwd=tmp_path) for _ in range(2)]
    for process in both:
        process.wait_for_output("ready")
    (tmp_path / "go").touch()
    assert [process.wait() for process in both] == [0, 0], both[0].errors + both[1].errors
    files = [process.output.splitlines()[1] for process in both]
    assert files[0] == files[1]  # the same file, written once
    assert len(packs_in(tmp_path / "packs")) == 1
    assert not list((tmp_path / "packs").glob(".*"))


@pytest.mark.integration
def test_a_builder_that_was_killed_leaves_nothing_for_long(films, tmp_path, start):
    root, packs = films[0].path.parents[2], tmp_path / "packs"
    process = start(["-c", BUILDER, root, packs, root], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(packs.glob(".*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert packs_in(packs) == []
    assert list(packs.glob(".*.tmp"))
    assert_true(open_pack(packs, films, PIPELINE), films)
    assert not list(packs.glob(".*.tmp"))


# Loaders.


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_from_a_pack_are_those_from_the_files(films, tmp_path, num_workers):
    from monai.transforms import RandAffine

    pipeline = Pipeline([], [RandAffine(prob=0.8, rotate_range=0.4)], image_size=(16, 20))
    pack = open_pack(tmp_path, films, pipeline)
    settings = LoaderSettings(batch_size=4, num_workers=num_workers)
    both = []
    for each in (None, pack):
        data = XrayData(films, ("A", "B"), pipeline=pipeline, pack=each, loader=settings, seed=5)
        both.append([*data.train_loader(), *data.eval_loader("train")])
        data.close()
    for read, packed in zip(*both, strict=True):
        for one, other in zip(read, packed, strict=True):
            assert torch.equal(one, other)


def test_a_loader_that_only_copies_has_no_workers(films, tmp_path):
    pipeline = Pipeline(image_size=(16, 20))
    settings = LoaderSettings(batch_size=4, num_workers=1)
    pack = open_pack(tmp_path, films, pipeline)
    packed = XrayData(films, ("A", "B"), pipeline=pipeline, pack=pack, loader=settings)
    unpacked = XrayData(films, ("A", "B"), pipeline=pipeline, loader=settings)
    assert packed.train_loader().num_workers == packed.eval_loader("train").num_workers == 0
    assert unpacked.train_loader().num_workers == unpacked.eval_loader("train").num_workers == 1


def test_the_manifest_says_what_the_images_are(films, tmp_path):
    path = open_pack(tmp_path, films, PIPELINE).path
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["bytes"] == path.stat().st_size
    assert manifest["unreadable"] == {}


def test_a_film_that_could_not_be_read_for_a_moment_is_packed_the_next_time(films, tmp_path):
    away = films[2].path.with_suffix(".away")
    films[2].path.rename(away)
    assert list(open_pack(tmp_path, films, PIPELINE).unreadable) == [films[2].sha256]
    away.rename(films[2].path)
    pack = open_pack(tmp_path, films, PIPELINE)
    assert pack.unreadable == {}
    assert_true(pack, films)


def test_a_deleted_pack_is_read_to_the_end(films, tmp_path):
    pack = open_pack(tmp_path, films, PIPELINE)
    for path in tmp_path.glob(f"{pack.path.stem}.*"):
        path.unlink()
    assert_true(pack, films)


def test_a_limit_of_memory_counts(films, tmp_path, monkeypatch):
    pack = open_pack(tmp_path / "packs", films, PIPELINE)
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("cxrignite.data.packing._CGROUP_LIMIT", limit)
    for text, fits in (("max\n", True), (f"{3 * pack.num_bytes}\n", True), ("1000\n", False)):
        limit.write_text(text)
        assert pack.fits_in_memory is fits
