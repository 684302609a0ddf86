"""Decoding of the formats that Pillow reads: TIFF, BMP, WebP, GIF and JPEG 2000."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from cxrignite.data.image_formats import PILLOW_FORMATS, READ_FORMATS
from cxrignite.data.pixel_limit import check_pixels
from cxrignite.errors import UnreadableImageError, is_resource_error

# Pillow converts these correctly to grey; it clips 32-bit values at 255.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


def open_with_pillow(data: bytes, path: Path | str) -> Image.Image:
    """Decode an image and rotate it by its EXIF orientation.

    Raises:
        UnreadableImageError: If it has another format, is damaged, has several images or 32-bit
            values, or its header claims more than `MAX_PIXELS` pixels.
    """
    try:
        image = Image.open(BytesIO(data), formats=PILLOW_FORMATS)
        check_pixels(*image.size, path)
        if image.mode not in _MODES and not image.mode.startswith("I;16"):
            raise UnreadableImageError(path, f"pixel format {image.mode} is not supported")
        num_frames = getattr(image, "n_frames", 1)
        if num_frames > 1:
            raise UnreadableImageError(path, f"it must contain one image, got {num_frames}")
        image.load()
        turned = ImageOps.exif_transpose(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError(path, f"its format must be one of {READ_FORMATS}") from error
    except Exception as error:
        if is_resource_error(error):
            raise
        # A damaged file can raise nearly anything in Pillow: OSError, SyntaxError, ValueError,
        # struct.error, zlib.error, DecompressionBombError.
        raise UnreadableImageError(path, str(error) or type(error).__name__) from error
    turned.format = image.format
    return turned
