"""Catalogue of the public data sets for `download`, with their sizes and digests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublicData:
    """Public data set: a zip archive of images.

    Attributes:
        sha256: Digest of the archive in lower-case hexadecimal.
        folder: The only top folder of the archive, also the name of the target folder.
        num_images: Number of images by folder, such as `train/NORMAL`.
        max_unpacked_bytes: Limit of the unpacked size; an archive that claims more is refused.
    """

    name: str
    url: str
    archive_name: str
    size: int
    sha256: str
    folder: str
    num_images: Mapping[str, int]
    max_unpacked_bytes: int
    licence: str
    citation: str
    doi: str


_CHEST_XRAY_2017 = PublicData(
    name="chest-xray-2017",
    url=(
        "https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
        "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded"
    ),
    archive_name="ChestXRay2017.zip",
    size=1_235_512_464,
    sha256="13efc055629733dbab07877f8b3c9f81097840dbcdaa326a8542322c2281ce36",
    folder="chest_xray",
    num_images={
        "train/NORMAL": 1_349,
        "train/PNEUMONIA": 3_883,
        "test/NORMAL": 234,
        "test/PNEUMONIA": 390,
    },
    # JPEG files, which a zip archive makes only 1 % smaller.
    max_unpacked_bytes=1_500_000_000,
    licence="CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
    citation=(
        "Kermany, Zhang, Goldbaum (2018): Labeled Optical Coherence Tomography (OCT) and Chest "
        "X-Ray Images for Classification. Mendeley Data, V2"
    ),
    doi="10.17632/rscbjbr9sj.2",
)

PUBLIC_DATA: Mapping[str, PublicData] = {each.name: each for each in (_CHEST_XRAY_2017,)}
"""Public data sets by name."""
