import json
import os

import numpy as np
import pytest
import yaml
from messages import missing, refused

from cxrignite.data import ImageRecord
from cxrignite.errors import CheckpointError, DamagedRunError, RunFolderError
from cxrignite.functional import PriorShift, select_operating_point
from cxrignite.handlers import SafeSaver
from cxrignite.runs.decision_rule import DecisionRule
from cxrignite.runs.environment import describe_start
from cxrignite.runs.reference import Reference
from cxrignite.runs.run_folder import RunFolder

PRIOR_SHIFT = PriorShift(30, 70, sampled_prevalence=0.5, pos_weight=1.0)


def start(*command):
    return describe_start([*command], device="cpu", precision="fp32", num_processes=1)


RECIPE = {"seed": 1, "run_dir": "runs/a", "trainer": {"max_epochs": 3, "handlers": [{"a": 1}]}}


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.begin(yaml.safe_dump(RECIPE), start("fit", "--config", "x.yaml"))
    return folder


def unchecked(folder):
    """As a run that was made before there were digests: only its own form shows damage."""
    folder.files.path.unlink()
    return folder


def changed(folder, **changes):
    return folder.changed_keys(yaml.safe_dump({**RECIPE, **changes}))


def test_the_same_recipe_has_no_changed_keys(folder):
    assert changed(folder) == []


def test_a_moved_folder_more_epochs_and_other_maps_are_no_change(folder):
    more = {"trainer": {**RECIPE["trainer"], "max_epochs": 9}, "explain": {"max_images": 3}}
    assert changed(folder, run_dir="b", **more) == []
    # A run is resumed with what the folder keeps.
    folder.begin(yaml.safe_dump({**RECIPE, **more}), start("fit"))
    assert yaml.safe_load(folder.recipe_path.read_text()) == {**RECIPE, **more}


def test_changed_added_and_removed_keys_are_named_by_their_dotted_name(folder):
    trainer = {"max_epochs": 3, "handlers": [{"a": 2}, {"b": 1}]}
    names = changed(folder, seed=2, trainer=trainer)
    assert names == ["seed", "trainer.handlers.0.a", "trainer.handlers.1.b"]
    assert changed(folder, seed=None) == ["seed"]


def test_fewer_epochs_are_refused(folder):
    with refused(RunFolderError, "trainer.max_epochs", 3, 2):
        changed(folder, trainer={**RECIPE["trainer"], "max_epochs": 2})


def test_the_lock_names_its_holder_and_goes_with_it(tmp_path):
    folder = RunFolder(tmp_path / "run")
    in_use = refused(RunFolderError, folder.root, os.getpid())
    with folder.lock(), in_use, RunFolder(folder.root).lock():
        pass
    with folder.lock():
        pass


@pytest.fixture
def decided(folder):
    """A folder with weights, and the operating point that belongs to them."""
    SafeSaver(folder.checkpoints_dir)({"model": {}}, "best.pt", {"epoch": 1})
    point = select_operating_point([0.1, 0.95, 0.2, 0.97], [0, 1, 0, 1])
    rule = DecisionRule("SICK", point, "val", PRIOR_SHIFT, folder.weights_sha256())
    folder.write_rules([rule])
    return rule


def test_an_operating_point_reads_back_equal(folder, decided):
    assert folder.read_rules() == (decided,)


def test_an_operating_point_of_other_weights_is_refused(folder, decided):
    SafeSaver(folder.checkpoints_dir)({"model": {"a": 1}}, "best.pt", {"epoch": 2})
    with refused(CheckpointError, folder.operating_point_path, folder.best_path, "weights"):
        folder.read_rules()


def test_a_sites_operating_point_stands_beside_the_first(folder, decided):
    records = [ImageRecord("a.png", "a.png", 0, "p1", "calibration", sha256="00")]
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    site = decided.moved_to("site-a", decided.point, None)
    is_negative = np.array([[True], [True]])
    reference = Reference(features, ["p1", "p2"], is_negative)
    folder.write_site("site-a", [site], records, reference)
    assert folder.read_rules("site-a") == (site,)
    assert folder.read_rules() == (decided,)
    assert [record.sha256 for record in folder.read_site_records("site-a")] == ["00"]
    reference = folder.read_reference("site-a")
    np.testing.assert_array_equal(reference.features, features)
    assert reference.patients == ["p1", "p2"]
    assert folder.read_reference() is None
    with refused(RunFolderError, folder.root, "'site-b'", "site-a"):
        folder.read_rules("site-b")


def test_a_damaged_reference_is_refused(folder):
    unchecked(folder).reference_path.write_bytes(b"PK damaged")
    with pytest.raises(DamagedRunError) as caught:
        folder.read_reference()
    assert missing(str(caught.value), [folder.reference_path]) == []
    assert "\n" not in str(caught.value)
    of_one = {"patients": np.array(["a"]), "is_negative": np.ones((1, 1), bool)}
    np.savez(folder.reference_path, features=np.zeros(3), **of_one)
    with refused(DamagedRunError, folder.reference_path):
        folder.read_reference()


def test_looks_are_counted_by_image_whatever_the_images_are_called(folder):
    def records(name, *digests):
        return [
            ImageRecord(name, f"{name}/{digest}.png", 0, "p", "test", sha256=digest)
            for digest in digests
        ]

    assert folder.record_evaluation(records("test", "aa", "bb")) == 1
    assert folder.record_evaluation(records("test", "aa", "bb")) == 2
    assert folder.record_evaluation(records("site", "cc")) == 1
    assert folder.record_evaluation(records("copied", "bb", "cc")) == 3
    unchecked(folder)
    for content in ("{", "[]", '{"aa": "x"}', '{"aa": 0}'):
        folder.evaluation_counts_path.write_text(content)
        with refused(DamagedRunError, folder.evaluation_counts_path):
            folder.record_evaluation(records("test", "aa"))


def test_going_on_takes_back_that_the_run_is_finished_and_keeps_the_first_start(folder):
    folder.write_rules([DecisionRule("SICK", None, "val", PRIOR_SHIFT, "0" * 64)])
    assert folder.is_finished
    folder.begin(yaml.safe_dump(RECIPE), start("fit", "--resume", "auto"))
    assert not folder.is_finished
    starts = json.loads(folder.environment_path.read_text())["starts"]
    assert [start["command"][1:3] for start in starts] == [["fit", "--config"], ["fit", "--resume"]]


@pytest.mark.parametrize("content", ["{", "a:\n  - b\n c", "[]", "words", "trainer: 3", "\x00"])
def test_a_damaged_recipe_is_refused_in_one_line(content, folder):
    unchecked(folder).recipe_path.write_text(content)
    with refused(DamagedRunError, folder.recipe_path):
        changed(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"starts": 3}', '{"starts": [3]}'])
def test_a_damaged_environment_is_refused_and_the_run_stays_finished(content, folder, decided):
    unchecked(folder).environment_path.write_text(content)
    with refused(DamagedRunError, folder.environment_path):
        folder.begin(yaml.safe_dump(RECIPE), start("fit"))
    assert folder.is_finished


@pytest.mark.parametrize("content", ["epoch\n1,2\n", "epoch\nx\n", "loss\n1\n", "epoch,loss\n,1\n"])
def test_a_damaged_history_is_refused(content, folder):
    unchecked(folder).history_path.write_text(content)
    with refused(DamagedRunError, folder.history_path):
        folder.read_history()


def test_the_hash_of_a_recipe_leaves_out_what_may_change(folder, tmp_path):
    other = RunFolder(tmp_path / "other")
    trainer = {**RECIPE["trainer"], "max_epochs": 9}
    other.begin(yaml.safe_dump({**RECIPE, "run_dir": "b", "trainer": trainer}), start())
    assert other.recipe_hash() == folder.recipe_hash()
    other.begin(yaml.safe_dump({**RECIPE, "seed": 2}), start())
    assert other.recipe_hash() != folder.recipe_hash()


def test_a_damaged_operating_point_is_refused(folder):
    unchecked(folder).operating_point_path.write_text('{"threshold": 0.9}')
    with refused(DamagedRunError, folder.operating_point_path):
        folder.read_rules()


def test_a_run_without_an_end_is_reported_how_to_go_on(folder):
    folder.files.write(folder.history_path, b"epoch\n1\n")
    with refused(RunFolderError, f"--run_dir {folder.root}", "--resume auto"):
        folder.finished_recipe()


def test_a_file_where_the_folder_should_be_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with (
        refused(RunFolderError, tmp_path / "run"),
        RunFolder(tmp_path / "run").lock(),
    ):
        pass
