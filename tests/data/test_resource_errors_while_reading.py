"""Errors that arrive while an image is read and are not about the image."""

import errno
import os

import numpy as np
import pytest
import simplejpeg
from messages import refused
from PIL import Image, PngImagePlugin
from pydicom.uid import ExplicitVRLittleEndian, JPEGLSLossless

from cxrignite.data import ImageRecord, Pipeline, dicom, dicom_pixels, reading
from cxrignite.data.image_stream import ImageStream
from cxrignite.data.inspection import inspect_images
from cxrignite.data.survey import survey_images
from cxrignite.data.transforms import Transform
from cxrignite.errors import CxrIgniteError, DataError, WorkerKilled, is_resource_error


@pytest.fixture(params=["JPEG", "PNG", "DICOM", "JPEG-LS"])
def failing(request, tmp_path, monkeypatch, make_dicom, dicom_bytes):
    """An image of each format, and a decoder that raises."""
    path, error = tmp_path / "image", []

    def fail(*args, **options):
        raise error[0]

    if request.param in ("JPEG", "PNG"):
        Image.new("L", (16, 16)).save(path, request.param)
    else:
        syntax = JPEGLSLossless if request.param == "JPEG-LS" else ExplicitVRLittleEndian
        path.write_bytes(dicom_bytes(make_dicom(np.arange(256).reshape(16, 16)), syntax))
    monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail)
    if request.param == "DICOM":
        monkeypatch.setattr(dicom, "grey_range", fail)
    codec = dicom_pixels.CODECS[JPEGLSLossless]._replace(decode=fail)
    monkeypatch.setitem(dicom_pixels.CODECS, JPEGLSLossless, codec)
    return ImageRecord(str(path), "image", 0, "", "test"), error


READERS = [
    lambda record: reading.read_image(record.path),
    lambda record: inspect_images([record]),
    lambda record: survey_images([record]),
    lambda record: list(ImageStream([record], Pipeline(), (16, 16), batch_size=1)),
]


@pytest.mark.parametrize("read", READERS)
def test_a_worker_that_was_killed_is_no_unreadable_image(failing, read):
    record, error = failing
    error.append(WorkerKilled("pid 12"))
    with pytest.raises(WorkerKilled) as caught:
        read(record)
    assert caught.value is error[0]


@pytest.mark.parametrize("read", READERS)
def test_memory_that_ran_out_is_no_unreadable_image(failing, read):
    record, error = failing
    error.append(MemoryError())
    with refused(CxrIgniteError, record.file, "memory") as caught:
        read(record)
    assert not isinstance(caught.value, DataError)
    assert caught.value.exit_code == 1


@pytest.mark.integration
def test_memory_that_ran_out_in_a_worker_is_one_line(failing):
    record, error = failing
    error.append(MemoryError())
    stream = ImageStream([record], Pipeline(), (16, 16), batch_size=1, num_workers=1)
    with refused(CxrIgniteError, record.file, "memory"):
        list(stream)
    stream.close()


def test_memory_that_the_jpeg_decoder_lacks_is_no_damage(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise ValueError("Insufficient memory (case 4)")

    Image.new("L", (16, 16)).save(tmp_path / "a.jpeg")
    monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)
    with refused(CxrIgniteError, tmp_path / "a.jpeg", "memory") as caught:
        reading.read_image(tmp_path / "a.jpeg")
    assert caught.value.exit_code == 1


class Failing(Transform):
    def __init__(self, error):
        self.error = error

    def __call__(self, image):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [MemoryError(), WorkerKilled("pid 12"), RuntimeError("[enforce] DefaultCPUAllocator: no")],
)
def test_a_transform_without_memory_is_no_fault_of_the_data(tmp_path, error):
    Image.new("L", (16, 16)).save(tmp_path / "a.png")
    with pytest.raises(type(error)) as caught:
        Pipeline([Failing(error)])(tmp_path / "a.png")
    assert caught.value is error


def test_the_first_error_is_found_behind_those_that_were_raised_from_it():
    outer = RuntimeError("applying transform")
    outer.__cause__ = MemoryError()
    assert is_resource_error(outer)
    assert not is_resource_error(ValueError("the image"))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_process_that_can_open_no_file_is_no_fault_of_the_file(tmp_path, monkeypatch, number):
    def refuse(*args, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(reading, "open", refuse, raising=False)
    with refused(CxrIgniteError, tmp_path, os.strerror(number)) as caught:
        reading.read_bytes(tmp_path)
    assert caught.value.exit_code == 1
