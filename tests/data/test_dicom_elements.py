"""DICOM files as they should not be: refused by name, soon, and without a word of the patient."""

import struct
import time
import tracemalloc
import zlib
from io import BytesIO

import numpy as np
import pydicom
import pytest
from messages import refused
from pydicom import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from cxrignite.data import dicom
from cxrignite.data.dicom import decode_dicom, patient_id
from cxrignite.data.reading import read_image
from cxrignite.errors import UnreadableImageError

RAMP = np.arange(96 * 80).reshape(96, 80) % 4096

# What the file of `identified` says of its patient, some of it not allowed where it stands.
SECRETS = {
    "PatientName": "MUSTERMANN^ERIKA",
    "PatientID": "PID-4711-0815",
    "PatientBirthDate": "12.Aug.1964",
    "StudyDate": "yesterday-noon",
    "StudyTime": "99887766554433",
    "AccessionNumber": "ACC-998877665544332211",
    "InstitutionName": "Clinic-of-the-Black-Forest",
    "OtherPatientIDs": "OTHER-0001",
    "PatientAge": "not-an-age-at-all",
    "SpecificCharacterSet": "CHARSET-ERIKA",
    "StudyInstanceUID": "no.uid.MUSTERMANN",
}


@pytest.fixture
def identified(make_dicom, dicom_bytes):
    """An image with a patient in its header, in nested sequences too."""

    def make(syntax=ExplicitVRLittleEndian, **changes) -> bytes:
        with pydicom.config.disable_value_validation():
            dataset = make_dicom(RAMP, WindowCenter=2000, WindowWidth=1500)
            inner = Dataset()
            for keyword, value in SECRETS.items():
                vr = "LO" if "UID" not in keyword else "UI"
                dataset.add_new(keyword, vr, value)
                if keyword != "SpecificCharacterSet":
                    inner.add_new(keyword, vr, value)
            dataset.RequestAttributesSequence = [inner]
            dataset["RequestAttributesSequence"].is_undefined_length = True
            for keyword, value in changes.items():
                dataset.add_new(keyword, "LO", value)
            # Written as bytes of no declared character set, as broken writers do.
            del dataset.SpecificCharacterSet
            data = dicom_bytes(dataset, syntax)
        charset = SECRETS["SpecificCharacterSet"].encode() + b" "
        element = struct.pack("<HH", 8, 5)
        if syntax == ImplicitVRLittleEndian:
            element += struct.pack("<I", len(charset)) + charset
        else:
            element += b"CS" + struct.pack("<H", len(charset)) + charset
        at = data.index(b"\x08\x00\x16\x00")
        return data[:at] + element + data[at:]

    return make


def refuse(data, *facts):
    """Assert that a file is refused for a reason that holds the facts."""
    with refused(UnreadableImageError, "image.dcm", *facts) as caught:
        decode_dicom(data, "image.dcm")
    return caught.value.reason


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"PhotometricInterpretation": "RGB"}, ["MONOCHROME1", "MONOCHROME2", "RGB"]),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ["MONOCHROME1", "PALETTE COLOR"]),
        ({"PhotometricInterpretation": None}, ["MONOCHROME1", "MONOCHROME2"]),
        ({"SamplesPerPixel": 3}, ["1 sample per pixel", 3]),
        ({"NumberOfFrames": 2}, ["1 frame", 2]),
        ({"PixelData": None}, ["pixel data"]),
        ({"Rows": 0}, [80, 0]),
        ({"Columns": 0}, [0, 96]),
        ({"Rows": 97}, ["truncated", "15,360", "15,520"]),
        ({"Rows": 80}, ["15,360", "12,800"]),
        ({"Rows": 10_000, "Columns": 8_001}, [8001, 10000, "80,000,000"]),
        ({"Rows": 65_535, "Columns": 65_535}, [65535, "80,000,000"]),
        ({"BitsAllocated": 32, "BitsStored": 32}, ["BitsAllocated", 8, 16, 32]),
        ({"BitsAllocated": None}, ["BitsAllocated", 8, 16, None]),
        ({"BitsStored": 17}, ["BitsStored", 16, 17]),
        ({"HighBit": 16}, ["HighBit", 16, 12]),
        ({"PixelRepresentation": 2}, ["PixelRepresentation", 0, 1, 2]),
    ],
)
def test_a_header_that_is_no_image_of_ours_is_refused(make_dicom, dicom_bytes, changes, facts):
    dataset = make_dicom(RAMP)
    for keyword, value in changes.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    tracemalloc.start()
    refuse(dicom_bytes(dataset), *facts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_floating_point_pixels_are_refused(make_dicom, dicom_bytes):
    dataset = make_dicom(RAMP)
    del dataset.PixelData
    dataset.FloatPixelData = RAMP.astype("<f4").tobytes()
    refuse(dicom_bytes(dataset), "floating point")


def test_a_deflated_file_is_refused_before_it_is_inflated(make_dicom, dicom_bytes):
    data = dicom_bytes(make_dicom(RAMP), DeflatedExplicitVRLittleEndian)
    bomb = zlib.compressobj(9, wbits=-15)
    cached = b"".join(bomb.compress(bytes(2**20)) for _ in range(20)) + bomb.flush()
    start = data.index(b"1.2.840.10008.1.2.1.99") + 22
    tracemalloc.start()
    for content in (data, data[:start] + cached):
        refuse(content, "Deflated Explicit VR Little Endian")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff"


def header_only(*elements):
    return bytes(128) + b"DICM" + b"".join(elements)


@pytest.mark.parametrize(
    "content",
    [
        header_only(),
        header_only(b"\x08\x00"),
        header_only(b"\x02\x00\x10\x00UI\xff\xff1.2"),
        header_only(b"\x08\x00\x05\x00CS\x02\x00ab" * 200_000),
        # Deeper than any stack.
        header_only(b"\x40\x00\x75\x02SQ\0\0" + b"\xff" * 4, ITEM * 99_999),
        header_only(b"\xfe\xff\x0d\xe0\0\0\0\0" * 9),
        header_only(b"\x08\x00\x16\x00UN\0\0\xff\xff\xff\xff"),
        header_only(b"\x08\x00\x16\x00UN\0\0\xfe\xff\xff\xff"),
        header_only(b"\x08\x00\x16\x00"),
        b"\x08\x00\x16\x00" * 40,
        b"<!DOCTYPE html><html><body>404</body></html>" * 10,
    ],
)
def test_headers_that_lead_nowhere_end_soon(content):
    began = time.process_time()
    refuse(content)
    assert time.process_time() - began < 5


def test_elements_without_end_are_not_followed_to_the_end():
    content = header_only(b"\x08\x00\x01\x00\0\0\0\0" * 1_100_000)
    began = time.process_time()
    refuse(content, "header", "damaged")
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    "syntax",
    [
        *(ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        *(JPEGLSLossless, JPEG2000Lossless, RLELossless),
    ],
)
def test_damaged_files_are_read_or_refused_and_never_crash(identified, syntax):
    rng = np.random.default_rng(7)
    whole = identified(syntax)
    image = decode_dicom(whole, "a")
    num_read, refusals = 0, []
    for number in range(160):
        data = bytearray(whole)
        reach = len(data) if number % 2 else 1600  # the header is small
        if number % 4 == 0:
            del data[rng.integers(0, len(data)) :]
        elif number % 4 == 1:
            at = rng.integers(132, min(reach, len(data)) - 4)
            data[at : at + 4] = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f")[number % 3]
        else:
            for at in rng.integers(132, min(reach, len(data)), rng.integers(1, 5)):
                data[at] = rng.integers(0, 256)
        try:
            found = decode_dicom(bytes(data), "image.dcm")
        except UnreadableImageError as error:
            refusals.append(error)
        else:
            num_read += 1
            assert found.dtype == np.uint8
            if number % 4 == 0:  # cut where nothing was
                np.testing.assert_array_equal(found, image)
    assert min(num_read, len(refusals)) > 10
    assert not any(secret in str(error) for error in refusals for secret in SECRETS.values())


def test_a_fault_that_was_not_foreseen_is_a_refusal_too(make_dicom, dicom_bytes, monkeypatch):
    monkeypatch.setattr(dicom, "grey_range", lambda *_: 1 / 0)
    assert refuse(dicom_bytes(make_dicom(RAMP))).endswith("(ZeroDivisionError)")


def images_with_secrets(identified, folder):
    """Files that are read, and files that are refused for each of many reasons."""
    text = SECRETS["PatientName"]
    files = {
        "explicit": identified(),
        "implicit": identified(ImplicitVRLittleEndian),
        "jpeg-ls": identified(JPEGLSLossless),
        "jpeg-2000": identified(JPEG2000Lossless),
        "cut": identified()[:-700],
        "cut header": identified()[:900],
        "damaged stream": identified(JPEGLSLossless)[:-900] + bytes(900),
        "damaged j2k": identified(JPEG2000Lossless).replace(b"\xff\x52", b"\xff\x99"),
        "syntax": identified().replace(b"1.2.840.10008.1.2.1\0", text.encode() + b"    "),
    }
    for keyword in (
        *("PhotometricInterpretation", "NumberOfFrames", "WindowCenter", "WindowWidth"),
        *("VOILUTFunction", "RescaleSlope", "RescaleIntercept", "Rows", "BitsStored"),
        *("VOILUTSequence", "ModalityLUTSequence", "PixelRepresentation", "SamplesPerPixel"),
    ):
        files[keyword] = identified(**{keyword: text})
    for name, data in files.items():
        (folder / f"{name}.dcm").write_bytes(data)
    return [folder / f"{name}.dcm" for name in files]


@pytest.mark.filterwarnings("always")
def test_nothing_of_the_patient_reaches_an_error_a_log_or_a_warning(
    identified, tmp_path, caplog, capfd, recwarn
):
    paths = images_with_secrets(identified, tmp_path)
    recwarn.clear()
    caplog.clear()
    printed, num_read = [], 0
    with caplog.at_level("DEBUG"):
        for path in paths:
            try:
                read_image(path)
                num_read += 1
            except UnreadableImageError as error:
                printed.append(str(error))
    captured = capfd.readouterr()
    assert num_read >= 4
    assert len(printed) >= 15
    assert [str(warning.message) for warning in recwarn] == []
    assert caplog.text == captured.out == captured.err == ""
    assert not any(secret in line for line in printed for secret in SECRETS.values())


@pytest.mark.integration
def test_nothing_of_the_patient_reaches_the_terminal(identified, tmp_path, python):
    folder = tmp_path / "images"
    folder.mkdir()
    paths = images_with_secrets(identified, folder)
    program = (
        "import logging, sys, traceback, warnings\n"
        "from pathlib import Path\n"
        "warnings.simplefilter('always')\n"
        "logging.basicConfig(level=logging.DEBUG)\n"
        "from cxrignite.data.inspection import inspect_images\n"
        "from cxrignite.data.dicom import patient_id\n"
        "from cxrignite.data.reading import read_image\n"
        "from cxrignite.data.image_files import image_files\n"
        "from cxrignite.data.sources import ImageRecord\n"
        "paths = image_files([Path(sys.argv[1])])\n"
        "for path in paths:\n"
        "    try:\n"
        "        patient_id(path); read_image(path); print('read')\n"
        "    except Exception:\n"
        "        traceback.print_exc()\n"
        "records = [ImageRecord(str(path), path.name, 0, path.name, 'train') for path in paths]\n"
        "found = inspect_images(records)\n"
        "print(len(found.records), len(found.unreadable), found.unreadable)\n"
    )
    done = python("-c", program, folder)
    assert done.returncode == 0, done.stderr
    num_read = done.stdout.count("read\n")
    num_refused = done.stderr.count("UnreadableImageError: ")
    assert num_read >= 4
    assert num_refused >= 15
    assert num_read + num_refused == len(paths)
    assert f"\n{num_read} {num_refused} [" in done.stdout
    assert "Warning" not in done.stderr
    printed = done.stdout + done.stderr
    assert [secret for secret in SECRETS.values() if secret in printed] == []


def test_the_secrets_are_really_in_the_files_and_pydicom_would_tell_them(identified):
    data = identified()
    assert all(secret.encode() in data for secret in SECRETS.values())
    with pytest.warns(UserWarning, match=SECRETS["SpecificCharacterSet"]):
        pydicom.dcmread(BytesIO(data), specific_tags=["Rows"])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless])
def test_the_patient_is_known_by_number(identified, tmp_path, syntax):
    (tmp_path / "IM1").write_bytes(identified(syntax))
    assert patient_id(tmp_path / "IM1") == SECRETS["PatientID"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("  17 ", "17"), ("", None), ("   ", None), ("Jürgen-1", "Jürgen-1"), (None, None)],
)
def test_a_patients_number_is_taken_without_its_padding(
    make_dicom, dicom_bytes, tmp_path, value, expected
):
    dataset = make_dicom(RAMP, SpecificCharacterSet="ISO_IR 192")
    if value is not None:
        dataset.PatientID = value
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(dataset))
    assert patient_id(tmp_path / "a.dcm") == expected


@pytest.mark.parametrize("at", ["behind a later group", "behind the pixels"])
def test_a_patients_number_out_of_order_is_found(identified, tmp_path, at):
    data = identified()
    start = data.index(b"\x10\x00\x20\x00LO")  # at the top level, before the sequence's
    end = start + 8 + int.from_bytes(data[start + 6 : start + 8], "little")
    moved, rest = data[start:end], data[:start] + data[end:]
    to = len(rest) if at == "behind the pixels" else rest.index(b"\x28\x00\x10\x00US")
    (tmp_path / "a.dcm").write_bytes(rest[:to] + moved + rest[to:])
    assert patient_id(tmp_path / "a.dcm") == SECRETS["PatientID"]
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm"), decode_dicom(data, "a"))


def test_what_is_no_dicom_has_no_patient_and_what_cannot_be_read_is_named(tmp_path, write_image):
    assert patient_id(write_image(tmp_path / "a.png")) is None
    (tmp_path / "b.dcm").write_bytes(b"")
    (tmp_path / "c.dcm").write_bytes(header_only(b"\x08\x00\x16\x00UN\0\0\xfe\xff\xff\xff"))
    for name in ("absent.dcm", "b.dcm", "c.dcm", "."):
        with pytest.raises(UnreadableImageError) as caught:
            patient_id(tmp_path / name)
        assert caught.value.path == tmp_path / name
        assert caught.value.reason
