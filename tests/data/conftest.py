import copy
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from cxrignite.data.class_folders import ClassFolders
from cxrignite.data.sources import ImageRecord


@pytest.fixture
def write_image() -> Callable[..., Path]:
    """Writes a grey image of smooth noise, so that JPEG keeps it well."""

    def write(path: Path, *, height: int = 24, width: int = 32, seed: int = 0) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = np.random.default_rng(seed).integers(0, 256, (4, 4), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
        return path

    return write


@pytest.fixture
def make_images(
    tmp_path: Path, write_image: Callable[..., Path]
) -> Callable[..., list[ImageRecord]]:
    """Makes a data set in the manner of ChestXRay2017, one image a patient."""

    def make(num_normal: int = 10, num_pneumonia: int = 16, num_test: int = 0) -> list[ImageRecord]:
        for number in range(num_normal):
            write_image(tmp_path / f"train/NORMAL/IM-{number:04}-0001.png", seed=number)
        for number in range(num_pneumonia):
            path = tmp_path / f"train/PNEUMONIA/person{number}_virus_{number}.png"
            write_image(path, seed=1000 + number)
        for number in range(num_test):
            write_image(tmp_path / f"test/NORMAL/IM-9{number:03}-0001.png", seed=2000 + number)
            path = tmp_path / f"test/PNEUMONIA/person9{number:03}_bacteria_1.png"
            write_image(path, seed=3000 + number)
        return ClassFolders(tmp_path).records()

    return make


@pytest.fixture
def varied_images() -> list[ImageRecord]:
    """About 300 normal and 600 pneumonia images of patients with one to nine images each."""
    rng = np.random.default_rng(5)
    names = [
        (f"train/{label}/{number}-{view}.png", label, f"{label}-{number}", "train")
        for label, num_patients in ((0, 100), (1, 200))
        for number in range(num_patients)
        for view in range(min(9, rng.geometric(0.33)))
    ]
    names += [(f"test/{label}/{n}.png", label, f"t{n}", "test") for label in (0, 1) for n in "ab"]
    return [ImageRecord(f"root/{name}", name, *others) for name, *others in names]


@pytest.fixture(scope="session")
def make_dicom() -> Callable[..., pydicom.Dataset]:
    """Makes a data set around stored values, not yet compressed."""

    def make(
        values: np.ndarray,
        *,
        bits: int = 12,
        signed: bool = False,
        inverted: bool = False,
        **header,
    ) -> pydicom.Dataset:
        dataset = pydicom.Dataset()
        dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.SOPInstanceUID = "1.2.3.4"
        dataset.SamplesPerPixel = 1
        dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
        dataset.Rows, dataset.Columns = values.shape
        dataset.BitsAllocated = 8 if bits <= 8 else 16
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        dataset.PixelRepresentation = int(signed)
        stored = values.astype(f"<{'i' if signed else 'u'}{dataset.BitsAllocated // 8}")
        raw = stored.tobytes()
        dataset.add_new("PixelData", "OW" if bits > 8 else "OB", raw + bytes(len(raw) % 2))
        for keyword, value in header.items():
            setattr(dataset, keyword, value)
        return dataset

    return make


@pytest.fixture(scope="session")
def dicom_bytes() -> Callable[..., bytes]:
    """Writes a data set as a file's content, compressed where the transfer syntax says so."""

    def write(dataset: pydicom.Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
        dataset = copy.deepcopy(dataset)
        dataset.file_meta = FileMetaDataset()
        uid = pydicom.uid.UID(syntax)
        if uid.is_encapsulated:
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.compress(uid, generate_instance_uid=False)
        if not uid.is_little_endian and dataset.BitsAllocated == 16:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").byteswap().tobytes()
        dataset.file_meta.TransferSyntaxUID = uid
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        return buffer.getvalue()

    return write
