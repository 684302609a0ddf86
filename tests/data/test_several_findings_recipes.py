"""The guide on several findings and the recipes for it, run on tables as the data sets' own."""

import gzip
import re
from pathlib import Path

import pytest

from cxrignite.cli.parsing import parse_recipe
from cxrignite.data import ManifestJoin

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guides" / "several-findings.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def source_of(tmp_path, monkeypatch):
    """The source of a recipe or of a block of the page, with its tables and one of its images."""

    def source(name: str, tables: dict[str, str], image: str):
        monkeypatch.chdir(tmp_path)
        for table, text in tables.items():
            path = Path(table)
            path.parent.mkdir(parents=True, exist_ok=True)
            content = text.encode()
            path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        Path(image).parent.mkdir(parents=True, exist_ok=True)
        Path(image).touch()
        shipped = ROOT / "recipes" / f"{name}.yaml"
        arguments = ["--config", str(shipped)]
        if not shipped.is_file():
            [block] = [each for each in BLOCKS if each.startswith(f"# {name}.yaml")]
            Path("overlay.yaml").write_text(block, encoding="utf-8")
            base = ROOT / "recipes" / "resnet50.yaml"
            arguments = ["--config", str(base), "--config", "overlay.yaml"]
        recipe, _, _ = parse_recipe("fit", arguments)
        return recipe.data.source

    return source


def labels_of(source):
    return {record.name: record.label for record in source.records()}


def present(source):
    """The findings of each image, with a question mark after an unknown one."""
    marks = {1: "", -1: "?"}
    return {
        record.name: [
            f"{name}{marks[label]}"
            for name, label in zip(source.findings, record.labels, strict=True)
            if label
        ]
        for record in source.records()
    }


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
)
FOURTEEN = (
    "Atelectasis|Cardiomegaly|Consolidation|Edema|Effusion|Emphysema|Fibrosis|Hernia|Infiltration"
    "|Mass|Nodule|Pleural_Thickening|Pneumonia|Pneumothorax"
)
NIH = {
    "data/nih/Data_Entry_2017.csv": f"{NIH_HEADER}"
    "00000001_000.png,Cardiomegaly,0,1,58,M,PA,2682,2749,0.143,0.143,\n"
    "00000001_001.png,Cardiomegaly|Emphysema,1,1,58,M,PA,2894,2729,0.143,0.143,\n"
    "00000002_000.png,No Finding,0,2,411,M,AP,2500,2048,0.171,0.171,\n"
    f"00000003_000.png,{FOURTEEN},0,3,81,F,PA,2582,2991,0.143,0.143,\n",
    "data/nih/train_val_list.txt": "00000001_000.png\n00000001_001.png\n00000003_000.png",
    "data/nih/test_list.txt": "00000002_000.png\n",
}
NIH_IMAGE = "images_001/images/00000001_000.png"


def test_nih(source_of):
    source = source_of("nih_chestxray14", NIH, f"data/nih/{NIH_IMAGE}")
    assert len(source.findings) == 14
    assert present(source) == {
        NIH_IMAGE: ["Cardiomegaly"],
        "00000001_001.png": ["Cardiomegaly", "Emphysema"],
        "00000002_000.png": [],
        "00000003_000.png": FOURTEEN.split("|"),
    }
    records = source.records()
    assert [record.split for record in records] == ["train", "train", "test", "train"]
    assert [record.patient for record in records] == ["1", "1", "2", "3"]
    assert records[2].attributes == {"View Position": "AP", "Patient Gender": "M"}


def test_nih_abnormal(source_of):
    source = source_of("nih_abnormal", NIH, f"data/nih/{NIH_IMAGE}")
    assert list(labels_of(source).values()) == [1, 1, 0, 1]
    assert [record.split for record in source.records()] == ["train", "train", "test", "train"]


CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
    "Support Devices"
)


def test_chexpert(source_of):
    folder = "CheXpert-v1.0-small/train"
    rows = [
        "patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0",
        "patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,,,-1.0,1.0,,-1.0,,,1.0,,1.0,,,",
        "patient00002/study2/view2_lateral.jpg,Female,87,Lateral,,,,1.0,,,,,,,,,,,",
        "patient00003/study1/view1_frontal.jpg,Male,41,Frontal,PA,,,1.0,,,0.0,1.0,,-1.0,,-1.0,,,",
    ]
    table = "\n".join(
        [f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}", *(f"{folder}/{row}" for row in rows)]
    )
    image = f"{folder}/patient00001/study1/view1_frontal.jpg"
    source = source_of("chexpert", {"data/CheXpert-v1.0-small/train.csv": table}, f"data/{image}")
    assert present(source) == {
        image: [],
        f"{folder}/patient00002/study2/view1_frontal.jpg": [
            *("Atelectasis", "Cardiomegaly?", "Edema", "Pleural Effusion")
        ],
        f"{folder}/patient00003/study1/view1_frontal.jpg": [
            *("Atelectasis", "Cardiomegaly", "Consolidation", "Pleural Effusion?")
        ],
    }
    patients = [record.patient for record in source.records()]
    assert patients == ["patient00001", "patient00002", "patient00003"]


def test_mimic(source_of):
    findings = CHEXPERT.split(",")

    def row(subject, study, **cells):
        found = {name.replace("_", " "): cell for name, cell in cells.items()}
        return ",".join([subject, study, *(found.get(name, "") for name in sorted(findings))])

    tables = {
        "metadata": "dicom_id,subject_id,study_id,ViewPosition,Rows\n"
        "02aa804e,10000032,50414267,PA,3056\n174413ec,10000032,50414267,LATERAL,3056\n"
        "2a2277a9,10000764,57375967,AP,3056\n68b5c4b1,10000898,50771383,PA,3056\n",
        "split": "dicom_id,study_id,subject_id,split\n02aa804e,50414267,10000032,train\n"
        "174413ec,50414267,10000032,train\n2a2277a9,57375967,10000764,train\n"
        "68b5c4b1,50771383,10000898,validate\n",
        "chexpert": "\n".join(
            [
                f"subject_id,study_id,{','.join(sorted(findings))}",
                row("10000032", "50414267", No_Finding="1.0"),
                row(
                    *("10000764", "57375967"),
                    **{"Edema": "1.0", "Pleural_Effusion": "-1.0", "Atelectasis": "1.0"},
                ),
                row("10000898", "50771383", Cardiomegaly="1.0", Pleural_Effusion="1.0"),
            ]
        ),
    }
    image = "files/p10/p10000032/s50414267/02aa804e.jpg"
    source = source_of(
        "mimic",
        {f"data/mimic/mimic-cxr-2.0.0-{name}.csv.gz": text for name, text in tables.items()},
        f"data/mimic/{image}",
    )
    assert present(source) == {
        image: [],
        "files/p10/p10000764/s57375967/2a2277a9.jpg": [
            *("Atelectasis", "Edema", "Pleural Effusion?")
        ],
        "files/p10/p10000898/s50771383/68b5c4b1.jpg": ["Cardiomegaly", "Pleural Effusion"],
    }
    assert [record.patient for record in source.records()] == ["10000032", "10000764", "10000898"]


def test_padchest(source_of):
    rows = [
        "1.png,0,p1,PA,F,Physician,['normal']",
        "2.png,1,p2,PA,M,RNN_model,\"['multiple nodules', 'pleural effusion', 'scoliosis']\"",
        "3.png,1,p2,L,M,RNN_model,\"['nodule']\"",
        "4.png,2,p3,PA,F,Physician,['exclude']",
        "5.png,2,p4,PA,F,Physician,\"['unchanged', 'cardiomegaly']\"",
        "6.png,3,p5,PA,M,Physician,['scoliosis']",
        "7.png,3,p6,PA,M,Physician,[]",
    ]
    header = "ImageID,ImageDir,PatientID,Projection,PatientSex_DICOM,MethodLabel,Labels"
    table = "data/padchest/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"
    text = "\n".join([header, *rows])
    source = source_of("padchest_findings", {table: text}, "data/padchest/0/1.png")
    assert present(source) == {
        "0/1.png": [],
        "2.png": ["Pleural Effusion", "Nodule"],
        "5.png": ["Cardiomegaly", "Pleural Effusion?", "Nodule?"],
        "6.png": [],
    }


def test_vinbigdata(source_of):
    text = (
        "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max\n"
        "50a418190bc3,No finding,14,R11,,,,\n"
        "9a5094b2563a,Cardiomegaly,3,R10,691.0,1375.0,1653.0,1831.0\n"
        "9a5094b2563a,Aortic enlargement,0,R10,1264.0,743.0,1611.0,1019.0\n"
        "9a5094b2563a,Nodule/Mass,8,R8,1.0,1.0,2.0,2.0\n"
        "50a418190bc3,No finding,14,R15,,,,\n"
        "051132a778e6,Pleural effusion,10,R9,1.0,1.0,2.0,2.0\n"
        "051132a778e6,Pulmonary fibrosis,13,R9,1.0,1.0,2.0,2.0\n"
    )
    image = "train/50a418190bc3.dicom"
    source = source_of(
        "vinbigdata", {"data/vinbigdata/train.csv": text}, f"data/vinbigdata/{image}"
    )
    assert present(source) == {
        image: [],
        "train/9a5094b2563a.dicom": ["Aortic enlargement", "Cardiomegaly", "Nodule/Mass"],
        "train/051132a778e6.dicom": ["Pleural effusion"],
    }


def test_rsna_classes(source_of):
    text = (
        "patientId,class\n0004cfab,No Lung Opacity / Not Normal\n00436515,Lung Opacity\n"
        "00436515,Lung Opacity\n003d8fa0,Normal\n"
    )
    table = "data/rsna/stage_2_detailed_class_info.csv"
    image = "data/rsna/stage_2_train_images/0004cfab.dcm"
    source = source_of("rsna_classes", {table: text}, image)
    assert source.exclusive
    assert list(labels_of(source).values()) == [(1, 0), (0, 1), (0, 0)]


def test_a_recipe_read_back_from_its_dump_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "written.yaml").write_text(
        "data:\n  source:\n    class_path: Manifest\n    init_args:\n"
        "      path: ~/t.csv\n      classes: [No Finding, Mass, Edema]\n"
        "      columns: {path: '**/{id:.2}/{id}', label: null, findings: {Mass: 'm, s'}}\n"
        "      labels: {on_uncertain: unknown, per_finding: {Mass: {on_missing: negative}}}\n"
        "      split_lists: {test: ~/test.txt}\n"
        "      join: [{path: ~/more.csv, by: [id]}]\n"
    )
    base = ["--config", str(ROOT / "recipes" / "resnet50.yaml")]
    written = [*base, "--config", str(tmp_path / "written.yaml")]
    recipe, text, _ = parse_recipe("fit", written)
    (tmp_path / "dump.yaml").write_text(text)
    again, text_again, _ = parse_recipe("fit", ["--config", str(tmp_path / "dump.yaml")])
    assert text_again == text
    assert vars(again.data.source) == vars(recipe.data.source)
    source = recipe.data.source
    assert source.split_lists == {"test": tmp_path / "test.txt"}
    assert source.join == [ManifestJoin(tmp_path / "more.csv", ["id"])]
    assert source.columns.label is None


def test_the_first_block_of_the_page(source_of, tmp_path):
    text = "path,patient,Effusion,Nodule,Mass\na.png,1,1,0,\nb.png,2,-1,-1,1\nc.png,3,0,,0\n"
    block = BLOCKS[0]
    BLOCKS.append(f"# first.yaml\n{block}")
    try:
        source = source_of("first", {"data/images.csv": text}, "data/a.png")
    finally:
        BLOCKS.pop()
    assert list(labels_of(source).values()) == [(1, 0, 0), (-1, 1, 1), (0, 0, 0)]
