import re
from pathlib import Path

import pytest

from cxrignite.data import ClassFolders, Manifest, ManifestPatients
from cxrignite.data.patients import image_subgroup, is_patient_name, patient_key


@pytest.mark.parametrize(
    ("name", "key", "subgroup"),
    [
        ("person12_virus_46.jpeg", "person12_virus", "virus"),
        ("person12_bacteria_46.jpeg", "person12_bacteria", "bacteria"),
        ("person1_virus_6_2.jpeg", "person1_virus", "virus"),
        ("IM-0115-0001.jpeg", "IM-0115", "IM"),
        ("IM-0115-0001-0002.jpeg", "IM-0115", "IM"),
        ("NORMAL2-IM-0123-0001.jpeg", "NORMAL2-IM-0123", "NORMAL2"),
        ("train/PNEUMONIA/person3_virus_15.jpeg", "person3_virus", "virus"),
    ],
)
def test_a_name_of_chest_xray_2017_gives_patient_and_subgroup(name, key, subgroup):
    assert patient_key(name) == key
    assert image_subgroup(name) == subgroup
    assert is_patient_name(name)


def test_the_same_number_in_another_stream_is_another_patient():
    names = ["person12_virus_1", "person12_bacteria_1", "IM-0012-0001", "NORMAL2-IM-0012-0001"]
    assert len({patient_key(f"{name}.jpeg") for name in names}) == 4


def test_a_number_is_not_cut_short():
    assert patient_key("person1_virus_6.jpeg") != patient_key("person12_virus_6.jpeg")


@pytest.mark.parametrize("name", ["scan.png", "personX_virus_1.jpeg", "xIM-0115-0001.jpeg"])
def test_a_strange_name_is_a_patient_of_its_own(name):
    assert patient_key(name) == name.rsplit(".", 1)[0]
    assert not is_patient_name(name)
    assert image_subgroup(name) == ""


def test_strange_names_in_two_folders_are_two_patients():
    assert patient_key("train/NORMAL/1.png") != patient_key("test/NORMAL/1.png")


def test_the_groups_of_an_own_pattern_are_joined():
    assert patient_key("site3-p77-view1.png", r"^(site\d)-p(\d+)") == "site3_77"
    assert patient_key("p77-view1.png", r"^p\d+") == "p77"
    assert image_subgroup("person1_virus_6.jpeg", r"^person\d+") == ""


def test_a_pattern_does_not_see_the_folders():
    assert patient_key("site3/9.png", r"site(\d)") == "site3/9"


def test_a_pattern_that_is_no_expression_is_refused():
    with pytest.raises(re.error):
        patient_key("a.png", "(")


def test_new_patients_are_those_of_the_source(tmp_path):
    folders = ClassFolders(tmp_path, patient_pattern=r"^(p\d+)_")
    salt = tmp_path / "salt"
    salt.write_text("0123456789abcdef")
    for source, cells in (
        (folders, ["12.0", " 7", "nan", ""]),
        (manifest(tmp_path), ["12.0", " 7", "nan", ""]),
        (manifest(tmp_path, ManifestPatients(pattern="chest-xray-2017")), ["12.0", "N/A"]),
    ):
        new = source.new_patients()
        assert [new.patient_key(cell) for cell in cells] == list(map(source.patient_key, cells))
        for name in ("p12_1.png", "person3_virus_4.jpeg", "other.png"):
            assert new.patient_of(tmp_path / name) == source.patient_of(tmp_path / name)
    assert folders.new_patients().patient_of(Path("a/p12_1.png")) == "p12"
    hidden = manifest(tmp_path, ManifestPatients(pattern="chest-xray-2017", salt_file=salt))
    assert hidden.new_patients().patient_key("12") == ""
    assert hidden.new_patients().patient_of(tmp_path / "person3_virus_4.jpeg") == ""
    # Searched in the path relative to the root, which an export does not have.
    in_path = manifest(tmp_path, ManifestPatients(pattern=r"ward(\d+)/"))
    assert in_path.new_patients().patient_of(tmp_path / "ward3" / "a.png") == ""


def manifest(folder, patients=ManifestPatients()):  # noqa: B008
    return Manifest(folder / "list.csv", ["NORMAL", "MASS"], root=folder, patients=patients)
