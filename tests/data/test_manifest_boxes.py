import pytest
from messages import refused
from PIL import Image

from cxrignite.data import Manifest, ManifestColumns
from cxrignite.data.manifest_labels import ManifestLabels
from cxrignite.data.masks import parse_boxes
from cxrignite.errors import DataError, RecipeError

XYWH = ["x", "y", "width", "height"]


def manifest(folder, lines, classes=("NORMAL", "PNEUMONIA"), labels=None, **columns):
    (folder / "t.csv").write_text("\n".join(lines) + "\n")
    for name in "abc":
        Image.new("L", (40, 30)).save(folder / f"{name}.png")
    return Manifest(
        folder / "t.csv",
        list(classes),
        ManifestColumns(**columns),
        labels or ManifestLabels(),
    )


def test_several_rows_of_an_image_are_several_boxes_as_in_the_rsna_table(tmp_path):
    lines = [
        "path,x,y,width,height,label",
        "a.png,264.0,152.0,213.0,379.0,1",
        "a.png,562.0,152.0,256.0,453.5,1",
        "b.png,,,,,0",
        "c.png,NaN,NaN,NaN,NaN,1",
    ]
    a, b, c = manifest(tmp_path, lines, boxes=XYWH).records()
    assert parse_boxes(a.attributes["boxes"], "a") == [
        (264, 152, 213, 379),
        (562, 152, 256, 453.5),
    ]
    assert b.attributes == c.attributes == {}
    assert [each.label for each in (a, b, c)] == [1, 0, 1]


def test_a_box_belongs_to_the_findings_of_its_row(tmp_path):
    lines = [
        "path,label,x,y,width,height",
        "a.png,Mass,1,2,3,4",
        "a.png,Nodule,5,6,7,8",
        "b.png,none,,,,",
        "c.png,Mass|Nodule,1,1,1,1",
    ]
    labels = ManifestLabels(separator="|", rows="any_positive")
    source = manifest(tmp_path, lines, ("none", "Mass", "Nodule"), labels, boxes=XYWH)
    a, b, c = source.records()
    assert a.label == (1, 1)
    assert a.attributes == {"boxes:Mass": "1 2 3 4", "boxes:Nodule": "5 6 7 8"}
    assert b.attributes == {}
    assert c.attributes == {"boxes:Mass": "1 1 1 1", "boxes:Nodule": "1 1 1 1"}


def test_columns_of_masks_become_attributes_and_empty_cells_none(tmp_path):
    lines = ["path,label,sex,m", "a.png,1,F,masks/a.png", "b.png,0,F,", "c.png,1,M,"]
    source = manifest(tmp_path, lines, masks={"PNEUMONIA": "m"}, attributes=["sex"])
    a, b, c = (each.attributes for each in source.records())
    assert a == {"sex": "F", "mask": "masks/a.png"}
    assert (b, c) == ({"sex": "F"}, {"sex": "M"})
    lines = ["path,label,m,n", "a.png,Mass,m/a.png,", "b.png,none,,", "c.png,Nodule,,n/c.png"]
    classes, masks = ("none", "Mass", "Nodule"), {"Mass": "m", "Nodule": "n"}
    a, _, c = (
        each.attributes for each in manifest(tmp_path, lines, classes, masks=masks).records()
    )
    assert (a, c) == ({"mask:Mass": "m/a.png"}, {"mask:Nodule": "n/c.png"})


@pytest.mark.parametrize(
    ("cells", "facts"),
    [
        ("1,2,3,", ["line 2", "'3'", "''"]),
        ("1,2,x,4", ["line 2", "'x'"]),
        ("1,2,0,4", ["line 2", "'0'"]),
        ("1,inf,3,4", ["line 2", "'inf'"]),
    ],
)
def test_cells_that_are_no_box_are_refused_with_their_line(tmp_path, cells, facts):
    lines = ["path,x,y,width,height,label", f"a.png,{cells},1", "b.png,,,,,0"]
    with refused(DataError, *facts):
        manifest(tmp_path, lines, boxes=XYWH).records()


def test_a_box_of_an_image_without_the_finding_is_refused(tmp_path):
    lines = ["path,x,y,width,height,label", "a.png,1,2,3,4,0", "b.png,,,,,1"]
    with refused(DataError, "line 2", "a.png"):
        manifest(tmp_path, lines, boxes=XYWH).records()


def test_wrong_columns_of_masks_and_boxes_are_refused(tmp_path):
    lines = ["path,label", "a.png,1", "b.png,0"]
    with refused(RecipeError, "columns.boxes", "'x', 'y'"):
        manifest(tmp_path, lines, boxes=["x", "y"])
    with refused(RecipeError, "columns.masks", "PNEUMONI", "PNEUMONIA"):
        manifest(tmp_path, lines, masks={"PNEUMONI": "m"})
    with refused(DataError, "mask", "columns.masks"):
        manifest(tmp_path, lines, masks={"PNEUMONIA": "mask"}).records()
    with refused(DataError, "width", "columns.boxes"):
        manifest(tmp_path, ["path,label,x,y", *lines[1:]], boxes=XYWH).records()
