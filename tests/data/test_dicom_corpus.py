"""Files that pydicom tests itself with: read as it reads them, or refused for what is so."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from cxrignite.data.reading import read_image
from cxrignite.errors import UnreadableImageError

FILES = Path(pydicom.__path__[0]) / "data" / "test_files"

# From what a refusal says to whether it is so, by pydicom's own reading of the file.
TRUE_REASONS: dict[str, Callable[[Dataset], bool]] = {
    "its format must be one of": lambda file: "SOPClassUID" not in file,
    "not a DICOM file": lambda file: "SOPClassUID" not in file,
    "it has no pixel data": lambda file: "PixelData" not in file,
    "got none": lambda file: "PhotometricInterpretation" not in file,
    "MONOCHROME1 or MONOCHROME2, got ": lambda file: "MONO" not in file.PhotometricInterpretation,
    "must have 1 frame, got": lambda file: file.NumberOfFrames > 1,
    "BitsAllocated must be 8 or 16": lambda file: file.BitsAllocated not in (8, 16),
    "Deflated Explicit VR Little Endian": lambda file: file.file_meta.TransferSyntaxUID.is_deflated,
}
# What pydicom cannot read either.
DAMAGED = {
    "badVR.dcm": "must have 1 frame",  # 1A
    "rtplan_truncated.dcm": "truncated",
    "MR_truncated.dcm": "truncated",
    "JPEG2000-embedded-sequence-delimiter.dcm": "stream claims",
}
FOREIGN = sorted(path for path in FILES.rglob("*") if path.is_file())


@pytest.mark.filterwarnings("error")
def test_every_file_that_pydicom_tests_itself_with_is_read_or_refused_for_what_is_so():
    shapes, untrue = {}, {}
    for path in FOREIGN:
        try:
            shapes[path.name] = read_image(path).shape
        except UnreadableImageError as error:
            if not is_true(error.reason, path):
                untrue[path.name] = error.reason
    assert untrue == {}
    assert len(shapes) > 45
    assert shapes["JPEGLSNearLossless_16.dcm"] == (50, 10)
    assert shapes["MR_small_bigendian.dcm"] == (64, 64)
    assert shapes["JPGExtended.dcm"] == (1024, 256)


def is_true(reason: str, path: Path) -> bool:
    """Whether pydicom finds in the file what it was refused for."""
    if path.name in DAMAGED:
        return DAMAGED[path.name] in reason
    said = next((said for said in TRUE_REASONS if said in reason), None)
    if said is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is wrong with the file
        return TRUE_REASONS[said](pydicom.dcmread(path, force=True))


@pytest.mark.parametrize(
    "name",
    [
        *("MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm"),
        *("MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm"),
    ],
)
def test_one_image_in_every_encoding_is_one_image(name):
    expected = read_image(FILES / "MR_small.dcm")
    np.testing.assert_array_equal(read_image(FILES / name), expected)
