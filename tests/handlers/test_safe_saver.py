from __future__ import annotations

import errno
import json
import os
import pickle
import random
import re
import shutil
import signal
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from messages import line_with, refused
from torch import nn

from cxrignite.errors import CheckpointError, CxrIgniteError
from cxrignite.handlers import SafeSaver, latest_valid, load_checkpoint, verify_checkpoint
from cxrignite.handlers.checkpoint_loading import is_valid, sealed


def without_sizes(message: str) -> str:
    """A message without those of a file, which differ from one torch to another."""
    return re.sub(r"\b(be|got) \d+\b", r"\1 N", message)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def save(folder: Path, *epochs: int, name: str = "last.pt") -> SafeSaver:
    saver = SafeSaver(folder)
    for epoch in epochs:
        saver({"model": {"weight": torch.full((50,), float(epoch))}}, name, {"epoch": epoch})
    return saver


def epoch_of(path: Path) -> int:
    epoch = load_checkpoint(path)["model"]["weight"][0].item()
    assert verify_checkpoint(path)["epoch"] == epoch
    return int(epoch)


def test_a_checkpoint_and_the_one_before_it_are_kept_with_their_manifests(tmp_path):
    save(tmp_path, 1, 2, 3)
    assert names(tmp_path) == ["last.json", "last.previous.json", "last.previous.pt", "last.pt"]
    assert epoch_of(tmp_path / "last.pt") == 3
    assert epoch_of(tmp_path / "last.previous.pt") == 2
    manifest = json.loads((tmp_path / "last.json").read_text())
    assert manifest["size"] == (tmp_path / "last.pt").stat().st_size
    assert set(manifest) == {"size", "sha256", "epoch", "manifest_sha256"}


def test_a_whole_training_state_comes_back_equal(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    model(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "random": torch.get_rng_state(),
        "tuple": (1, None, [True, "x"]),
    }
    SafeSaver(tmp_path)(state, "last.pt")
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert loaded["model"]._metadata == state["model"]._metadata
    for name, tensor in state["model"].items():
        assert torch.equal(loaded["model"][name], tensor)
    assert loaded["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]
    assert loaded["lr_scheduler"]["milestones"] == Counter([2, 3])
    assert torch.equal(loaded["random"], state["random"])
    assert loaded["tuple"] == state["tuple"]


def test_numpy_scalars_become_python_numbers(tmp_path):
    state = OrderedDict(a=np.float64(0.5), b=[{"c": np.int32(3)}], d=(np.bool_(True),))
    SafeSaver(tmp_path)(state, "last.pt", {"score": np.float64(0.25)})
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert loaded == {"a": 0.5, "b": [{"c": 3}], "d": (True,)}
    assert [type(value) for value in (loaded["a"], loaded["b"][0]["c"])] == [float, int]
    assert verify_checkpoint(tmp_path / "last.pt")["score"] == 0.25


@pytest.mark.parametrize("thing", [np.zeros(2), Path("x"), {1}, object(), print])
def test_what_could_not_be_loaded_again_is_refused_before_anything_is_written(thing, tmp_path):
    saver = save(tmp_path, 1)
    with refused(CheckpointError, "last.pt['a'][0]"):
        saver({"a": [thing]}, "last.pt")
    assert epoch_of(tmp_path / "last.pt") == 1
    assert names(tmp_path) == ["last.json", "last.pt"]


def test_a_name_without_the_ending_is_refused(tmp_path):
    with refused(ValueError, "filename", ".pt", "'last'"):
        SafeSaver(tmp_path)({}, "last")


def test_only_the_first_process_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("ignite.distributed.get_rank", lambda: 1)
    save(tmp_path / "folder", 1)
    assert not (tmp_path / "folder").exists()


# Ignite's Checkpoint


def test_ignite_removes_what_it_superseded_only_after_the_new_one_is_complete(tmp_path):
    complete_at_save: list[int] = []

    class Watching(SafeSaver):
        def __call__(self, *args, **kwargs):
            complete_at_save.append(sum(is_valid(path) for path in tmp_path.glob("*.pt")))
            super().__call__(*args, **kwargs)

    engine = Engine(lambda engine, batch: None)
    keep_two = Checkpoint({"model": nn.Linear(1, 1)}, Watching(tmp_path), n_saved=2)
    engine.add_event_handler(Events.EPOCH_COMPLETED, keep_two)
    engine.run([0], max_epochs=4)
    assert complete_at_save == [0, 1, 2, 2]
    assert names(tmp_path) == ["model_3.json", "model_3.pt", "model_4.json", "model_4.pt"]


def test_ignite_saving_under_one_name_over_and_over_keeps_the_last(tmp_path):
    model = nn.Linear(1, 1)
    engine = Engine(lambda engine, batch: nn.init.constant_(model.weight, engine.state.iteration))
    last = Checkpoint({"model": model}, SafeSaver(tmp_path), filename_pattern="last.pt")
    engine.add_event_handler(Events.EPOCH_COMPLETED, last)
    engine.run([0], max_epochs=3)
    assert load_checkpoint(tmp_path / "last.pt")["weight"].item() == 3
    assert load_checkpoint(tmp_path / "last.previous.pt")["weight"].item() == 2


# Disk full, and stopping at each step


@pytest.mark.parametrize("name", ["fsync", "replace"])
@pytest.mark.parametrize("nth", range(1, 9))
def test_a_disk_that_is_full_at_any_step_costs_no_valid_checkpoint(
    name, nth, tmp_path, monkeypatch
):
    saver = save(tmp_path, 1, 2)
    original, calls = getattr(os, name), []

    def full(*args):
        calls.append(args)
        if len(calls) >= nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args)

    monkeypatch.setattr(os, name, full)
    refusal = None
    try:
        saver({"model": {"weight": torch.full((50,), 3.0)}}, "last.pt", {"epoch": 3})
    except CxrIgniteError as error:
        refusal = str(error)
    monkeypatch.undo()
    left = epoch_of(latest_valid(tmp_path, "last.pt"))
    if len(calls) < nth:
        assert (refusal, left) == (None, 3)
    else:
        assert line_with(refusal, tmp_path, "No space left") == refusal
        # The last call of all comes after the new manifest has its name.
        assert left == 2 or len(calls) == nth
    assert not list(tmp_path.glob(".*"))
    save(tmp_path, 4)
    assert epoch_of(tmp_path / "last.pt") == 4


KILLED_AT_EACH_CALL = """
import itertools, os, shutil, sys
import torch
from cxrignite.handlers import SafeSaver

def save_until(folder, stop_at):
    calls = itertools.count(1)

    def killed_before(function):
        def act(*args, **kwargs):
            if next(calls) == stop_at:
                os.kill(os.getpid(), 9)
            return function(*args, **kwargs)
        return act

    for name in ("open", "link", "replace", "fsync", "unlink"):
        setattr(os, name, killed_before(getattr(os, name)))
    for epoch in (3, 4):
        weight = torch.full((50,), float(epoch))
        SafeSaver(folder)({"model": {"weight": weight}}, "last.pt", {"epoch": epoch})

root = sys.argv[1]
for stop_at in itertools.count(1):
    folder = f"{root}/{stop_at}"
    shutil.copytree(f"{root}/start", folder)
    child = os.fork()
    if child == 0:
        save_until(folder, stop_at)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code)
    if code != -9:
        break
"""


@pytest.mark.integration
def test_killed_before_each_system_call_a_valid_checkpoint_is_left(python, tmp_path):
    save(tmp_path / "start", 1, 2)
    done = python("-c", KILLED_AT_EACH_CALL, tmp_path)
    assert done.returncode == 0, done.stderr
    codes = [int(line) for line in done.stdout.split()]
    assert len(codes) > 20
    assert codes == [-signal.SIGKILL] * (len(codes) - 1) + [0]
    left = []
    for number in range(1, len(codes) + 1):
        folder = tmp_path / str(number)
        left.append(epoch_of(latest_valid(folder, "last.pt")))
        SafeSaver(folder)
        assert not list(folder.glob(".*"))
    assert left == sorted(left)
    assert set(left) == {2, 3, 4}


KILLED_AT_RANDOM = """
import itertools, os, random, sys, time
from pathlib import Path
import torch
from cxrignite.handlers import SafeSaver, latest_valid, load_checkpoint, verify_checkpoint

folder, num_kills, num_floats = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = random.Random(num_kills)
torch.set_num_threads(1)  # a forked child of a process with OpenMP threads waits for them for ever

def save_forever(epoch, told):
    saver = SafeSaver(folder)
    os.write(told, b"" if list(folder.glob(".*")) else b".")
    for epoch in itertools.count(epoch):
        saver({"w": torch.full((num_floats,), float(epoch))}, "last.pt", {"epoch": epoch})
        os.write(told, b".")

saved, interrupted = 0, 0
SafeSaver(folder)({"w": torch.zeros(num_floats)}, "last.pt", {"epoch": 0})
started = time.perf_counter()
SafeSaver(folder)({"w": torch.zeros(num_floats)}, "last.pt", {"epoch": 0})
one_save = time.perf_counter() - started
kills = 0
# On a busy machine few kills hit the moments that matter: go on until some have.
while kills < num_kills or (interrupted < 3 and kills < 20 * num_kills):
    kills += 1
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        save_forever(saved + 1, tell)
    os.close(tell)
    swept = os.read(told, 1)
    assert swept == b".", "a stale temporary was left"
    time.sleep(rng.uniform(0, 3 * one_save))
    os.kill(child, 9)
    os.waitpid(child, 0)
    with open(told, "rb") as pipe:
        least = saved + len(pipe.read())
    path = latest_valid(folder, "last.pt")
    interrupted += bool(list(folder.glob(".*"))) or path.name != "last.pt"
    saved = verify_checkpoint(path)["epoch"]
    assert (load_checkpoint(path)["w"] == saved).all()
    assert saved in (least, least + 1), (least, saved)
SafeSaver(folder)
assert not list(folder.glob(".*"))
print(interrupted, saved)
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("num_kills", "num_floats"),
    [
        (30, 300_000),
        pytest.param(400, 1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_killed_at_random_moments_a_valid_checkpoint_is_left_and_no_litter(
    num_kills, num_floats, python, tmp_path
):
    done = python("-c", KILLED_AT_RANDOM, tmp_path, num_kills, num_floats, timeout=800)
    assert done.returncode == 0, done.stderr
    interrupted, saved = (int(word) for word in done.stdout.split())
    assert interrupted >= 3, "too few kills hit a save: the test proves nothing"
    assert saved > 0


@pytest.mark.integration
def test_temporaries_of_a_killed_process_are_swept_at_the_start(start, tmp_path):
    process = start(["-c", ""], cwd=tmp_path)
    process.wait()
    (tmp_path / f".last.pt.{process.pid}.tmp").write_bytes(b"half")
    SafeSaver(tmp_path)
    assert names(tmp_path) == []


def test_a_save_that_was_killed_before_its_manifest_does_not_replace_the_previous(tmp_path):
    save(tmp_path, 1, 2)
    (tmp_path / "last.pt").write_bytes(b"new, and its manifest never came")
    save(tmp_path, 3)
    assert epoch_of(tmp_path / "last.pt") == 3
    assert epoch_of(tmp_path / "last.previous.pt") == 1


# Damage


def mutations(size: int) -> list[tuple[str, int]]:
    rng = random.Random(0)
    places = [rng.randrange(size) for _ in range(40)]
    return [(kind, place) for place in places for kind in ("cut", "flip", "zero", "grow", "swap")]


def mutate(folder: Path, kind: str, place: int) -> None:
    path = folder / "last.pt"
    data = bytearray(path.read_bytes())
    if kind == "cut":
        del data[place:]
    elif kind == "flip":
        data[place] ^= 1 << place % 8
    elif kind == "zero":
        data[place : place + 64] = b"\xaa" * len(data[place : place + 64])
        data[place : place + 32] = bytes(len(data[place : place + 32]))
    elif kind == "grow":
        data.insert(place, 0)
    else:
        manifest, other = folder / "last.json", folder / "other.json"
        manifest.rename(folder / "x"), other.rename(manifest), (folder / "x").rename(other)
    path.write_bytes(data)


@contextmanager
def refused_as_damaged(*facts: str) -> Iterator[None]:
    with pytest.raises(CheckpointError) as caught:
        yield
    message = without_sizes(str(caught.value))
    assert line_with(message, "last.pt", *facts) == message


def test_every_mutation_is_found_and_the_previous_one_taken(tmp_path, caplog):
    save(tmp_path / "start", 1, 2)
    save(tmp_path / "start", 7, name="other.pt")
    found = 0
    for kind, place in mutations((tmp_path / "start" / "last.pt").stat().st_size):
        folder = tmp_path / "mutated"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "start", folder)
        mutate(folder, kind, place)
        with refused_as_damaged("size" if kind in ("cut", "grow") else "sha256"):
            load_checkpoint(folder / "last.pt")
        caplog.clear()
        assert epoch_of(latest_valid(folder, "last.pt")) == 1
        (warning,) = caplog.messages
        line_with(without_sizes(warning), "last.pt", "last.previous.pt")
        found += 1
    assert found == 200


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        *((content, "last.json") for content in ("", "{", "[]", "null", '{"size": 1}', "\x00" * 9)),
        ('{"size": "a", "sha256": 3}', "manifest_sha256"),
    ],
)
def test_a_damaged_manifest_is_found(content, fact, tmp_path):
    save(tmp_path, 1)
    (tmp_path / "last.json").write_text(content)
    with refused_as_damaged(fact):
        latest_valid(tmp_path, "last.pt")
    assert not is_valid(tmp_path / "last.pt")


def test_a_manifest_without_its_own_digest_is_refused(tmp_path):
    save(tmp_path, 1)
    manifest = json.loads((tmp_path / "last.json").read_text())
    del manifest["manifest_sha256"]
    (tmp_path / "last.json").write_text(json.dumps(manifest))
    with refused_as_damaged("manifest_sha256"):
        latest_valid(tmp_path, "last.pt")


def test_what_a_manifest_says_besides_cannot_be_changed(tmp_path):
    save(tmp_path, 1)
    text = (tmp_path / "last.json").read_text()
    (tmp_path / "last.json").write_text(text.replace('"epoch": 1', '"epoch": 7'))
    with refused_as_damaged("last.json"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_file_without_a_manifest_was_never_finished(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "last.json").unlink()
    with refused(CheckpointError, "last.json"):
        latest_valid(tmp_path, "last.pt")


def test_a_missing_checkpoint_is_named(tmp_path):
    with refused(CheckpointError, "best.pt"):
        load_checkpoint(tmp_path / "best.pt")
    save(tmp_path, 1)
    (tmp_path / "last.pt").unlink()
    with refused(CheckpointError, "last.pt", "No such file"):
        load_checkpoint(tmp_path / "last.pt")


# Hostile files


class Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


def sign(path: Path) -> None:
    """Give a file the manifest that an attacker would give it."""
    import hashlib

    data = path.read_bytes()
    manifest = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(sealed(manifest)))


@pytest.mark.parametrize("form", ["torch", "torch_legacy", "pickle"])
def test_a_pickle_payload_is_refused_and_does_not_run(form, tmp_path):
    path, touched = tmp_path / "last.pt", tmp_path / "it_ran"
    content = {"model": Payload(touched)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    sign(path)
    with refused(CheckpointError, "last.pt") as caught:
        load_checkpoint(path)
    assert "weights_only" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert not touched.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"<html>", bytes(100)])
def test_what_is_no_checkpoint_is_refused_in_one_line(content, tmp_path):
    path = tmp_path / "last.pt"
    path.write_bytes(content)
    sign(path)
    with refused(CheckpointError, "last.pt"):
        load_checkpoint(path)


def test_anything_but_a_dict_is_refused(tmp_path):
    torch.save([1], tmp_path / "last.pt")
    sign(tmp_path / "last.pt")
    with refused(CheckpointError, "dict", "list"):
        load_checkpoint(tmp_path / "last.pt")
