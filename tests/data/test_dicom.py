"""DICOM images against what pydicom's steps and a line of arithmetic make of the same values."""

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from cxrignite.data.dicom import decode_dicom, is_dicom
from cxrignite.data.reading import read_image

SYNTAXES = {
    "implicit": ImplicitVRLittleEndian,
    "explicit": ExplicitVRLittleEndian,
    "big-endian": ExplicitVRBigEndian,
    "jpeg-ls": JPEGLSLossless,
    "jpeg-2000": JPEG2000Lossless,
    "rle": RLELossless,
}


def lut(num_entries, first, bits, *, entries=None):
    """A lookup table that is neither straight nor rising everywhere, and reaches its ends."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [num_entries, first, bits])
    if entries is None:
        steps = np.linspace(0, 1, num_entries)
        entries = np.round((steps**0.5 + 0.1 * np.sin(25 * steps)).clip(0, 1) * (2**bits - 1))
    item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return [item]


# What a header may ask for, for values of any depth: they are shrunk to `bits`.
STEPS = {
    "nothing": lambda low, high: {},
    "rescale": lambda low, high: {"RescaleSlope": 0.5, "RescaleIntercept": -100},
    "falling rescale": lambda low, high: {"RescaleSlope": -2, "RescaleIntercept": 7},
    "modality lut": lambda low, high: {"ModalityLUTSequence": lut(200, low + 10, 16)},
    "linear": lambda low, high: window((low + high) / 2 + 5, (high - low) * 0.7 + 0.37),
    "linear, first of two": lambda low, high: window([low + 60, 5], [101, 7]),
    "linear exact": lambda low, high: window(low + 50.5, 77, VOILUTFunction="LINEAR_EXACT"),
    "sigmoid": lambda low, high: window(low + 80, 90, VOILUTFunction="SIGMOID"),
    "least window": lambda low, high: window(low + 80, 1),
    "rescale and window": lambda low, high: {
        **window(20, 95),
        "RescaleSlope": 1.5,
        "RescaleIntercept": -9,
    },
    "modality lut and window": lambda low, high: {
        **window(20_000, 30_000),
        "ModalityLUTSequence": lut(200, low + 10, 16),
    },
    "voi lut": lambda low, high: {"VOILUTSequence": lut(150, low + 20, 12)},
    "voi lut before window": lambda low, high: {
        **window(20, 95),
        "VOILUTSequence": lut(150, low + 20, 16),
    },
    "rescale and voi lut": lambda low, high: {
        "RescaleSlope": 0.5,
        "RescaleIntercept": -100,
        "VOILUTSequence": lut(250, -60, 12),
    },
}


def window(center, width, **more):
    return {"WindowCenter": center, "WindowWidth": width, **more}


def ends(bits, signed):
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def every_value(bits, signed):
    """An image of 66 x 71 that reaches from the least value to the greatest, in no order."""
    low, high = ends(bits, signed)
    values = np.linspace(low, high, 66 * 71).round().astype(int)
    near = low + np.arange(300) % (high - low + 1)  # where the windows of `STEPS` are
    values[100:400] = near
    return np.random.default_rng(0).permutation(values).reshape(66, 71)


def reference(dataset, values):
    """The same by pydicom's functions, on the whole image, and the range written out."""
    steps = apply_modality_lut(values, dataset)
    if "VOILUTSequence" in dataset:  # takes whole numbers
        steps = np.floor(steps).astype(int)
    steps = apply_voi_lut(steps, dataset)
    low, high = ends(dataset.BitsStored, dataset.PixelRepresentation)
    if "ModalityLUTSequence" in dataset:
        low, high = 0, 2 ** dataset.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    if "RescaleSlope" in dataset:
        scaled = [end * dataset.RescaleSlope + dataset.RescaleIntercept for end in (low, high)]
        low, high = min(scaled), max(scaled)
    if "VOILUTSequence" in dataset:
        low, high = 0, 2 ** dataset.VOILUTSequence[0].LUTDescriptor[2] - 1
    grey = np.floor((steps.astype(float) - low) / (high - low) * 255 + 0.5)
    return 255 - grey if dataset.PhotometricInterpretation == "MONOCHROME1" else grey


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("inverted", [False, True], ids=["monochrome2", "monochrome1"])
def test_a_image_is_what_pydicoms_own_steps_make_of_it(
    make_dicom, dicom_bytes, inverted, bits, signed, syntax
):
    values = every_value(bits, signed)
    for name, step in STEPS.items():
        header = step(*ends(bits, signed))
        dataset = make_dicom(values, bits=bits, signed=signed, inverted=inverted, **header)
        image = decode_dicom(dicom_bytes(dataset, SYNTAXES[syntax]), "a.dcm")
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, reference(dataset, values), err_msg=name)


@pytest.mark.parametrize("slope", [-1, -2.5])
@pytest.mark.parametrize("signed", [False, True])
def test_a_window_over_falling_values_is_not_turned_around(make_dicom, dicom_bytes, slope, signed):
    # pydicom's window would be: it takes the range's ends in the wrong order.
    values = every_value(12, signed)
    header = window(slope * 300, 801.37, RescaleSlope=slope, RescaleIntercept=4)
    dataset = make_dicom(values, signed=signed, **header)
    share = (values * slope + 4 - (slope * 300 - 0.5)) / 800.37 + 0.5
    expected = np.floor(share.clip(0, 1) * 255 + 0.5)
    np.testing.assert_array_equal(decode_dicom(dicom_bytes(dataset), "a"), expected)


def test_twelve_bits_reach_white(make_dicom, dicom_bytes):
    values = np.array([[0, 8, 9, 2047, 2048, 4095]])
    image = decode_dicom(dicom_bytes(make_dicom(values)), "a")
    np.testing.assert_array_equal(image, [[0, 0, 1, 127, 128, 255]])
    inverted = decode_dicom(dicom_bytes(make_dicom(values, inverted=True)), "a")
    np.testing.assert_array_equal(inverted, 255 - image)


@pytest.mark.parametrize("scaling", ["file", "stored", "minmax", "percentiles"])
@pytest.mark.parametrize("size", [None, (20, 33), (150, 90)])
@pytest.mark.parametrize("bits", [8, 16])
def test_a_dicom_and_a_png_of_the_same_pixels_are_one_image(
    tmp_path, make_dicom, dicom_bytes, bits, size, scaling
):
    values = every_value(bits, signed=False) // 3 + 11
    Image.fromarray(values.astype(f"u{bits // 8}")).save(tmp_path / "a.png")
    (tmp_path / "a.dcm").write_bytes(dicom_bytes(make_dicom(values, bits=bits)))
    image = read_image(tmp_path / "a.dcm", size, scaling)
    np.testing.assert_array_equal(image, read_image(tmp_path / "a.png", size, scaling))
    assert image.flags.writeable
    assert image.flags.c_contiguous


@pytest.mark.parametrize("name", ["a.dcm", "a.DICOM", "IM000001", "1.2.840.10008.5", "a.jpeg"])
def test_the_content_counts_and_not_the_name(tmp_path, make_dicom, dicom_bytes, name):
    data = dicom_bytes(make_dicom(every_value(12, signed=False)))
    assert is_dicom(data)
    (tmp_path / name).write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / name), decode_dicom(data, name))


@pytest.mark.parametrize("skipped", [132, "header"])
@pytest.mark.parametrize("syntax", ["explicit", "implicit"])
def test_a_file_may_lack_its_preamble(tmp_path, make_dicom, dicom_bytes, syntax, skipped):
    data = dicom_bytes(make_dicom(every_value(12, signed=False)), SYNTAXES[syntax])
    start = 132 if skipped == 132 else data.index(b"\x08\x00\x16\x00")
    assert not is_dicom(data[start:])
    (tmp_path / "a.dcm").write_bytes(data[start:])
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm"), decode_dicom(data, "a"))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_jpeg_that_is_named_dcm_is_read_as_what_it_is(tmp_path, file_format):
    values = every_value(8, signed=False).astype(np.uint8)
    for name in ("a.dcm", "a.jpeg"):
        Image.fromarray(values).save(tmp_path / name, file_format)
    np.testing.assert_array_equal(read_image(tmp_path / "a.dcm"), read_image(tmp_path / "a.jpeg"))


def test_what_lies_above_the_high_bit_is_not_the_images(make_dicom, dicom_bytes):
    values = every_value(12, signed=False)
    dataset = make_dicom(values)
    expected = decode_dicom(dicom_bytes(dataset), "a")
    overlaid = make_dicom(values)
    overlaid.PixelData = (values | 0x5000).astype("<u2").tobytes()
    np.testing.assert_array_equal(decode_dicom(dicom_bytes(overlaid), "a"), expected)
    shifted = make_dicom(values, HighBit=15)
    shifted.PixelData = (values << 4).astype("<u2").tobytes()
    np.testing.assert_array_equal(decode_dicom(dicom_bytes(shifted), "a"), expected)


@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_bytes_in_big_endian_words_are_put_in_order(make_dicom, dicom_bytes, vr):
    values = every_value(8, signed=False)[:, :69]  # an odd number of them
    dataset = make_dicom(values[:65], bits=8)
    raw = values[:65].astype(np.uint8).tobytes() + b"\0"
    if vr == "OW":
        raw = np.frombuffer(raw, "<u2").byteswap().tobytes()
    dataset.add_new("PixelData", vr, raw)
    image = decode_dicom(dicom_bytes(dataset, ExplicitVRBigEndian), "a")
    np.testing.assert_array_equal(image, values[:65])


def test_a_table_of_eight_bits_may_be_cached_and_longer_than_its_own_values(
    make_dicom, dicom_bytes
):
    # pydicom keeps the index in the entries' own eight bits, and so reads the wrong entry.
    values = every_value(12, signed=False)
    entries = np.linspace(250, 3, 4096).round().astype(np.uint8)
    table = lut(4096, 0, 8, entries=entries)
    whole = decode_dicom(dicom_bytes(make_dicom(values, VOILUTSequence=table)), "a")
    np.testing.assert_array_equal(whole, entries[values])
    table[0].add_new("LUTData", "OW", entries.tobytes())
    cached = decode_dicom(dicom_bytes(make_dicom(values, VOILUTSequence=table)), "a")
    np.testing.assert_array_equal(cached, entries[values])


def test_a_table_that_holds_more_than_its_bits_is_not_clipped(make_dicom, dicom_bytes):
    values = every_value(12, signed=False)
    table = lut(4096, 0, 10, entries=np.arange(4096))
    image = decode_dicom(dicom_bytes(make_dicom(values, VOILUTSequence=table)), "a")
    np.testing.assert_array_equal(image, decode_dicom(dicom_bytes(make_dicom(values)), "a"))


def test_empty_sequences_items_and_values_ask_for_nothing(make_dicom, dicom_bytes):
    values = every_value(12, signed=False)
    plain = decode_dicom(dicom_bytes(make_dicom(values)), "a")
    header = {"WindowCenter": None, "WindowWidth": None}
    header |= {"RescaleSlope": None, "RescaleIntercept": None, "NumberOfFrames": None}
    bare, hollow = Dataset(), Dataset()
    hollow.add_new("LUTDescriptor", "US", None)
    hollow.add_new("LUTData", "OW", b"")
    for item in (None, bare, hollow):
        tables = [] if item is None else [item]
        empty = make_dicom(values, **header, ModalityLUTSequence=tables)
        empty.VOILUTSequence = tables
        for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
            np.testing.assert_array_equal(decode_dicom(dicom_bytes(empty, syntax), "a"), plain)


@pytest.mark.parametrize("written", ["01", "0001", "1.0", "+1", "0"])
def test_a_number_of_frames_may_be_written_in_any_way(make_dicom, dicom_bytes, written):
    values = every_value(12, signed=False)
    plain = decode_dicom(dicom_bytes(make_dicom(values)), "a")
    dataset = make_dicom(values)
    dataset.add_new("NumberOfFrames", "LO", written)
    np.testing.assert_array_equal(decode_dicom(dicom_bytes(dataset), "a"), plain)


def test_sequences_without_a_length_are_stepped_over(make_dicom, dicom_bytes):
    values = every_value(12, signed=False)
    plain = make_dicom(values, **window(2000, 900.37))
    dataset = make_dicom(values, **window(2000, 900.37))
    deep = Dataset()
    deep.PatientName = "ANON"
    for _ in range(40):
        outer = Dataset()
        outer.is_undefined_length_sequence_item = True
        outer.RequestAttributesSequence = [deep]
        outer["RequestAttributesSequence"].is_undefined_length = True
        deep = outer
    dataset.RequestAttributesSequence = deep.RequestAttributesSequence
    dataset["RequestAttributesSequence"].is_undefined_length = True
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        image = decode_dicom(dicom_bytes(dataset, syntax), "a")
        np.testing.assert_array_equal(image, decode_dicom(dicom_bytes(plain), "a"))
