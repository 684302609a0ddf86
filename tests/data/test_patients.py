import re

import pytest

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
