"""Headers that ask for steps which cannot be done as they stand: refused, never guessed at."""

import numpy as np
import pydicom
import pytest
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
    ("header", "reason"),
    [
        ({"WindowCenter": 5}, "WindowCenter and WindowWidth must be given together"),
        ({"WindowWidth": 5}, "WindowCenter and WindowWidth must be given together"),
        ({"WindowCenter": 5, "WindowWidth": 0.5}, "at least 1 for LINEAR, got 0.5"),
        ({"WindowCenter": 5, "WindowWidth": -3}, "at least 1 for LINEAR, got -3"),
        (
            {"WindowCenter": 5, "WindowWidth": 0, "VOILUTFunction": "LINEAR_EXACT"},
            "above 0 for LINEAR_EXACT, got 0",
        ),
        (
            {"WindowCenter": 5, "WindowWidth": 0, "VOILUTFunction": "SIGMOID"},
            "above 0 for SIGMOID, got 0",
        ),
        ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "VOILUTFunction must"),
        ({"WindowCenter": "wide", "WindowWidth": 9}, "is not a number"),
        ({"WindowCenter": "nan", "WindowWidth": 9}, "is not a number"),
        ({"RescaleSlope": 2}, "RescaleSlope and RescaleIntercept must be given together"),
        ({"RescaleSlope": 0, "RescaleIntercept": 5}, "makes all values one, got 0"),
        ({"RescaleSlope": "1e308", "RescaleIntercept": 5}, "too large"),
        ({"RescaleSlope": "1e-300", "RescaleIntercept": 5}, "makes all values one"),
        ({"VOILUTSequence": table(None)}, "VOI LUT has a descriptor that makes no sense"),
        ({"VOILUTSequence": table([16, 0])}, "VOI LUT has a descriptor that makes no sense"),
        ({"VOILUTSequence": table([16, 0, 40])}, "VOI LUT has a descriptor that makes no sense"),
        ({"VOILUTSequence": table([17, 0, 12])}, "VOI LUT has 16 entries, 17 by its descriptor"),
        ({"VOILUTSequence": table([0, 0, 12])}, "VOI LUT has 16 entries, 65536 by"),
        ({"VOILUTSequence": table([16, 0, 12], 0)}, "VOI LUT has 0 entries"),
        ({"ModalityLUTSequence": table([16, 0, 7])}, "Modality LUT has a descriptor"),
    ],
)
def test_a_step_that_makes_no_sense_is_refused_by_name(make_dicom, dicom_bytes, header, reason):
    with pydicom.config.disable_value_validation():
        dataset = make_dicom(RAMP)
        for keyword, value in header.items():
            if isinstance(value, str):  # as text, whatever it says
                dataset.add_new(keyword, "LO", value)
            else:
                setattr(dataset, keyword, value)
        data = dicom_bytes(dataset)
    with pytest.raises(UnreadableImageError, match=reason) as caught:
        decode_dicom(data, "film.dcm")
    assert "film.dcm" in str(caught.value)


def test_a_window_far_from_all_values_is_black_or_white_and_no_overflow(make_dicom, dicom_bytes):
    for center, level in ((1e9, 0), (-1e9, 255)):
        for function in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
            for width in ("1", "1e300") if function == "LINEAR" else ("1", "1e-300"):
                header = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}
                image = decode_dicom(dicom_bytes(make_dicom(RAMP, **header)), "a")
                assert set(image.ravel()) == ({128} if width == "1e300" else {level})


def test_one_bit_is_black_and_white(make_dicom, dicom_bytes):
    bits = np.array([[0, 1, 1, 0]])
    data = dicom_bytes(make_dicom(bits, bits=1))
    np.testing.assert_array_equal(decode_dicom(data, "a"), bits * 255)
