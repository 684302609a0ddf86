"""The supported image formats, with their suffixes and signatures."""

from __future__ import annotations

import mimetypes
import os

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k"),
    "DICOM": (".dcm", ".dicom"),
}
"""Suffixes by format, in lower case; the names are Pillow's, except for DICOM."""

IMAGE_SUFFIXES = frozenset(suffix for known in SUFFIXES.values() for suffix in known)

DICOM_SUFFIXES = frozenset(SUFFIXES["DICOM"])

READ_FORMATS = ", ".join(SUFFIXES)
"""The supported formats as text, for messages."""

PILLOW_FORMATS = tuple(name for name in SUFFIXES if name not in {"JPEG", "PNG", "DICOM"})
"""The formats decoded by Pillow; the others have stricter decoders."""

# Suffixes of images that some versions of `mimetypes` do not know.
_OTHER_SUFFIXES = frozenset(
    (".avif", ".exr", ".fits", ".heic", ".heif", ".hdr", ".jpf", ".jpx", ".jxl", ".mha", ".mhd")
) | frozenset((".mrc", ".nii", ".nrrd", ".pgm", ".ppm", ".psd", ".pnm", ".tga", ".dib", ".j2c"))
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n": "PNG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"GIF8": "GIF",
    b"\0\0\0\x0cjP  ": "JPEG2000",
}


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name in lower case; that of `lung.nii.gz` is `.nii`."""
    stem, suffix = os.path.splitext(name.lower())
    return os.path.splitext(stem)[1] if suffix in {".gz", ".bz2", ".xz"} else suffix


def names_image(name: str) -> bool:
    """True if a file name is that of an image in any format."""
    suffix = suffix_of(name)
    if suffix in IMAGE_SUFFIXES or suffix in _OTHER_SUFFIXES:
        return True
    return (mimetypes.guess_type(f"name{suffix}")[0] or "").startswith("image/")


def names_other(name: str) -> bool:
    """True if a file name is that of something else than an image, such as `notes.txt`."""
    return mimetypes.guess_type(name)[0] is not None and not names_image(name)


def format_of(head: bytes) -> str | None:
    """Return the format of a file by its first bytes, `None` if unknown; DICOM is not detected."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    return next((name for start, name in _SIGNATURES.items() if head.startswith(start)), None)
