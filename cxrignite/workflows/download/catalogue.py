"""The public data sets that `download` knows, and what each must be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PublicData:
    """A zip archive of images that anybody may fetch.

    Attributes:
        name: What the command line calls it.
        url: Where the archive is, over http or https.
        archive_name: The archive's file name.
        size: The archive's bytes.
        sha256: The archive's digest in lower-case hexadecimal.
        folder: The one folder at the archive's top, and the name that it keeps.
        num_images: From each folder below it, such as `train/NORMAL`, to the number of its images.
        max_unpacked_bytes: More than the images take; what claims more is refused.
        licence: Its name and its address.
        citation: What a work that uses the data has to cite.
        doi: Of the data set.
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
    # Such images are JPEG files, which a zip makes 1 % smaller.
    max_unpacked_bytes=1_500_000_000,
    licence="CC BY 4.0, https://creativecommons.org/licenses/by/4.0/",
    citation=(
        "Kermany, Zhang, Goldbaum (2018): Labeled Optical Coherence Tomography (OCT) and Chest "
        "X-Ray Images for Classification. Mendeley Data, V2"
    ),
    doi="10.17632/rscbjbr9sj.2",
)

PUBLIC_DATA: Mapping[str, PublicData] = {each.name: each for each in (_CHEST_XRAY_2017,)}
"""From a data set's name to what it must be."""
