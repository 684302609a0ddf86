"""The page on manifests: its recipes, run on tables as the data sets' own."""

import gzip
import re
from pathlib import Path

import pytest

from cxrignite.cli.parsing import parse_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guides" / "manifests.md"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture
def records_of(tmp_path, monkeypatch):
    """The images of a recipe of the page, laid over a shipped recipe, for a table and its files."""

    def records(block: str, table: str, text: str, files: list[str], base: str = "resnet50"):
        monkeypatch.chdir(tmp_path)
        path = Path(table)
        path.parent.mkdir(parents=True)
        content = text.encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        for name in files:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).touch()
        Path("overlay.yaml").write_text(block, encoding="utf-8")
        shipped = ROOT / "recipes" / f"{base}.yaml"
        recipe, _, _ = parse_recipe("fit", ["--config", str(shipped), "--config", "overlay.yaml"])
        found = recipe.data.source.records()
        assert recipe.data.source.classes[1] in ("PNEUMONIA", "LUNG_OPACITY")
        return found

    return records


def block_of(name: str) -> str:
    (block,) = [each for each in BLOCKS if each.startswith(f"# {name}.yaml")]
    return block


def printed(records):
    return [(record.name, record.label, record.patient) for record in records]


def test_the_page_has_the_keys_and_four_data_sets():
    assert len(BLOCKS) == 5


def test_the_keys_of_the_page_are_those_of_the_source(records_of):
    records = records_of(
        BLOCKS[0],
        "data/images.csv",
        "path,label,patient,split,view,sex\n"
        "a.png,N,1,train,PA,F\n"
        "b.png,pneumonia,2,test,AP,M\n"
        "c.png,-1,3,train,PA,M\n"
        "d.png,1,3,train,LL,M\n",
        ["data/a.png"],
    )
    assert printed(records) == [("a.png", 0, "1"), ("b.png", 1, "2")]
    assert [record.split for record in records] == ["train", "test"]
    assert records[0].attributes == {"view": "PA", "sex": "F"}


def test_nih(records_of):
    records = records_of(
        block_of("nih"),
        "data/nih/Data_Entry_2017_v2020.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
        "00000001_000.png,Cardiomegaly,0,1,57,M,PA,2682,2749,0.143,0.143\n"
        "00000002_000.png,No Finding,0,2,80,M,PA,2500,2048,0.171,0.171\n"
        "00000003_001.png,Infiltration|Pneumonia,1,3,74,F,AP,2500,2048,0.168,0.168\n"
        "00000003_002.png,Pneumonia,2,3,75,F,PA,2048,2500,0.168,0.168\n",
        ["data/nih/images/00000002_000.png"],
    )
    assert printed(records) == [
        ("images/00000002_000.png", 0, "2"),
        ("images/00000003_001.png", 1, "3"),
        ("images/00000003_002.png", 1, "3"),
    ]
    assert records[0].path == Path("data/nih/images/00000002_000.png")
    assert records[1].attributes == {"View Position": "AP", "Patient Gender": "F"}
    assert {record.split for record in records} == {"train"}


def test_rsna(records_of):
    records = records_of(
        block_of("rsna"),
        "data/rsna/stage_2_train_labels.csv",
        "patientId,x,y,width,height,Target\n"
        "0004cfab-14fd-4e49-80ba-63a80b6bddd6,,,,,0\n"
        "00436515-870c-4b36-a041-de91049b9ab4,264.0,152.0,213.0,379.0,1\n"
        "00436515-870c-4b36-a041-de91049b9ab4,562.0,152.0,256.0,453.0,1\n",
        ["data/rsna/stage_2_train_images/0004cfab-14fd-4e49-80ba-63a80b6bddd6.dcm"],
    )
    first, second = "0004cfab-14fd-4e49-80ba-63a80b6bddd6", "00436515-870c-4b36-a041-de91049b9ab4"
    assert printed(records) == [
        (f"stage_2_train_images/{first}.dcm", 0, first),
        (f"stage_2_train_images/{second}.dcm", 1, second),
    ]


def test_chexpert(records_of):
    findings = (
        "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
        "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
        "Support Devices"
    )
    folder = "CheXpert-v1.0-small/train"
    records = records_of(
        block_of("chexpert"),
        "data/CheXpert-v1.0-small/train.csv",
        f"Path,Sex,Age,Frontal/Lateral,AP/PA,{findings}\n"
        f"{folder}/patient00001/study1/view1_frontal.jpg,Female,68,Frontal,AP,1.0,,,,,,,0.0,,,,,,1.0\n"
        f"{folder}/patient00002/study2/view1_frontal.jpg,Female,87,Frontal,AP,,,,1.0,,,,1.0,,,,,,\n"
        f"{folder}/patient00002/study2/view2_lateral.jpg,Female,87,Lateral,,,,,1.0,,,,1.0,,,,,,\n"
        f"{folder}/patient00003/study1/view1_frontal.jpg,Male,41,Frontal,PA,,,,,,,,-1.0,,,,,,\n"
        f"{folder}/patient00004/study1/view1_frontal.jpg,Male,20,Frontal,PA,,,,,,,,,0.0,,,,,\n",
        [f"data/{folder}/patient00001/study1/view1_frontal.jpg"],
    )
    assert printed(records) == [
        (f"{folder}/patient00001/study1/view1_frontal.jpg", 0, "patient00001"),
        (f"{folder}/patient00002/study2/view1_frontal.jpg", 1, "patient00002"),
    ]
    assert records[0].attributes == {"Sex": "Female", "AP/PA": "AP"}


def test_padchest(records_of):
    header = (
        ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,"
        "ViewPosition_DICOM,Projection,MethodProjection,Pediatric,Modality_DICOM,"
        "Manufacturer_DICOM,PhotometricInterpretation_DICOM,PixelRepresentation_DICOM,"
        "PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
        "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,"
        "ExposureInuAs_DICOM,ExposureTime,RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,"
        "Labels,Localizations,LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS"
    )

    def row(number: int, patient: str, projection: str, labels: str) -> str:
        dicom = ["CR", "Maker", "MONOCHROME2", "0", "", "0.13", "12", *("2048" for _ in range(4))]
        dicom += [""] * 5
        cells = [
            *(str(number), f"{number}_a.png", "0", "20140915", f"s{number}", patient, "1930.0"),
            *("F", "POSTEROANTERIOR", projection, "Manual review of DICOM fields", "No"),
            *(*dicom, "4765777", "sin hallazgos .", "Physician", f'"{labels}"'),
            *("[]", "\"[['normal']]\"", "[]", "[]"),
        ]
        assert len(cells) == len(header.split(","))
        return ",".join(cells)

    records = records_of(
        block_of("padchest"),
        "data/padchest/PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
        "\n".join(
            [
                header,
                row(0, "839860488694292331637988235681460987", "PA", "['normal']"),
                row(
                    1, "313572750430997347502932654319389875", "PA", "['pneumonia', 'infiltrates']"
                ),
                row(2, "313572750430997347502932654319389875", "L", "['pneumonia']"),
                row(3, "3", "PA", "['exclude']"),
                row(4, "4", "PA", "['scoliosis', 'nodule']"),
                row(5, "5", "PA", "['unchanged', 'atypical pneumonia']"),
                row(6, "6", "PA", "[]"),
            ]
        ),
        ["data/padchest/0/0_a.png"],
    )
    assert printed(records) == [
        ("0/0_a.png", 0, "839860488694292331637988235681460987"),
        ("0/1_a.png", 1, "313572750430997347502932654319389875"),
        ("0/5_a.png", 1, "5"),
    ]
    assert records[0].attributes == {"PatientSex_DICOM": "F", "MethodLabel": "Physician"}
