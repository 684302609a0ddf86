"""Headers that ask for steps which cannot be done as they stand: refused, never guessed at."""

import numpy as np
import pydicom
import pytest
from messages import refused
from pydicom import Dataset

from cxrignite.data.dicom import decode_dicom
from cxrignite.errors import UnreadableImageError

RAMP = np.arange(16).reshape(4, 4) * 273


def table(descriptor, num_entries=16):
    item = Dataset()
    if descriptor is not None:
        item.add_new("LUTDescriptor", "US", descriptor)
    if num_entries:
        item.add_new("LUTData", "US", list(range(num_entries)))
    return [item]


@pytest.mark.parametrize(
    ("header", "facts"),
    [
        ({"WindowCenter": 5}, ["WindowCenter", "WindowWidth"]),
        ({"WindowWidth": 5}, ["WindowCenter", "WindowWidth"]),
        ({"WindowCenter": 5, "WindowWidth": 0.5}, ["WindowWidth", "1", "LINEAR", "0.5"]),
        ({"WindowCenter": 5, "WindowWidth": -3}, ["WindowWidth", "1", "LINEAR", "-3"]),
        (
            {"WindowCenter": 5, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
            ["WindowWidth", "0", "LINEAR_EXACT"],
        ),
        (
            {"WindowCenter": 5, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
            ["WindowWidth", "0", "SIGMOID"],
        ),
        (
            {"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"},
            ["VOILUTFunction", "LINEAR", "LINEAR_EXACT", "SIGMOID"],
        ),
        ({"WindowCenter": "wide", "WindowWidth": 9}, ["WindowCenter", "numbers"]),
        ({"WindowCenter": "nan", "WindowWidth": 9}, ["WindowCenter", "numbers"]),
        ({"RescaleSlope": 2}, ["RescaleSlope", "RescaleIntercept"]),
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, ["RescaleSlope", "0"]),
        (
            {"RescaleSlope": "1e308", "RescaleIntercept": 5},
            ["RescaleSlope", "RescaleIntercept", "large"],
        ),
        ({"RescaleSlope": "1e-300", "RescaleIntercept": 5}, ["RescaleSlope", "1e-300"]),
        ({"VOILUTSequence": table(None)}, ["VOI LUT", "descriptor"]),
        ({"VOILUTSequence": table([16, 0])}, ["VOI LUT", "descriptor"]),
        ({"VOILUTSequence": table([16, 0, 40])}, ["VOI LUT", "descriptor"]),
        ({"VOILUTSequence": table([17, 0, 12])}, ["VOI LUT", "16", "17"]),
        ({"VOILUTSequence": table([0, 0, 12])}, ["VOI LUT", "16", "65536"]),
        ({"VOILUTSequence": table([16, 0, 12], 0)}, ["VOI LUT", "16", "0"]),
        ({"ModalityLUTSequence": table([16, 0, 7])}, ["Modality LUT", "descriptor"]),
    ],
)
def test_a_step_that_makes_no_sense_is_refused_by_name(make_dicom, dicom_bytes, header, facts):
    with pydicom.config.disable_value_validation():
        dataset = make_dicom(RAMP)
        for keyword, value in header.items():
            if isinstance(value, str):  # as text, whatever it says
                dataset.add_new(keyword, "LO", value)
            else:
                setattr(dataset, keyword, value)
        data = dicom_bytes(dataset)
    with refused(UnreadableImageError, "image.dcm", *facts):
        decode_dicom(data, "image.dcm")


def test_a_window_far_from_all_values_is_black_or_white_and_no_overflow(make_dicom, dicom_bytes):
    for center, level in ((1e9, 0), (-1e9, 255)):
        for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            for width in ("1", "1e300") if function == "LINEAR" else ("1", "1e-300"):
                header = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}
                image = decode_dicom(dicom_bytes(make_dicom(RAMP, **header)), "a")
                assert set(image.ravel()) == ({128} if width == "1e300" else {level})


def spread(values, low, high):
    return np.floor((values - low) / (high - low) * 255 + 0.5)


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("step", ["nothing", "rescale", "modality lut"])
def test_twelve_bits_in_sixteen_without_a_window_are_what_viewers_show(
    make_dicom, dicom_bytes, step, inverted
):
    header = {"rescale": {"RescaleSlope": -2, "RescaleIntercept": 9}}.get(step, {})
    if step == "modality lut":  # of 16 bits, of which its entries use 10
        item = table([4096, 0, 16], 0)[0]
        item.add_new("LUTData", "US", (np.arange(4096) // 4).tolist())
        header = {"ModalityLUTSequence": [item]}
    data = dicom_bytes(make_dicom(RAMP, bits=16, inverted=inverted, **header))
    meant = {"rescale": -RAMP, "modality lut": RAMP // 4}.get(step, RAMP)
    expected = spread(meant, meant.min(), meant.max())
    image = decode_dicom(data, "a")
    np.testing.assert_array_equal(image, 255 - expected if inverted else expected)


def test_a_setting_other_than_the_files_ignores_its_window(make_dicom, dicom_bytes):
    header = {"WindowCenter": 300, "WindowWidth": 0.1, "RescaleSlope": 2, "RescaleIntercept": -5}
    data = dicom_bytes(make_dicom(RAMP + 100, bits=16, **header))
    with refused(UnreadableImageError, "image.dcm", "WindowWidth"):
        decode_dicom(data, "image.dcm")
    for scaling, low, high in (("stored", 0, 65_535), ("minmax", 100, RAMP.max() + 100)):
        expected = spread(RAMP + 100, low, high)
        np.testing.assert_array_equal(decode_dicom(data, "a", scaling), expected)
    assert set(decode_dicom(data, "a", "percentiles").ravel()) >= {0, 255}


def test_eight_bits_without_a_window_stay_as_they_are(make_dicom, dicom_bytes):
    values = np.array([[90, 100, 110]])
    for header in ({}, {"RescaleSlope": 1, "RescaleIntercept": 0}):
        data = dicom_bytes(make_dicom(values, bits=8, **header))
        np.testing.assert_array_equal(decode_dicom(data, "a"), values)


def test_one_bit_is_black_and_white(make_dicom, dicom_bytes):
    bits = np.array([[0, 1, 1, 0]])
    data = dicom_bytes(make_dicom(bits, bits=1))
    np.testing.assert_array_equal(decode_dicom(data, "a"), bits * 255)
