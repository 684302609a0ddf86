"""The data room: from files to batches of X-ray films."""

from cxrignite.data.loading import Batch, LoaderSettings
from cxrignite.data.module import XrayData
from cxrignite.data.phantom import Phantom
from cxrignite.data.reading import read_image
from cxrignite.data.sampling import BalancedSampler, balanced_sampler
from cxrignite.data.sources import ClassFolders, Film, Source

__all__ = [
    "BalancedSampler",
    "Batch",
    "ClassFolders",
    "Film",
    "LoaderSettings",
    "Phantom",
    "Source",
    "XrayData",
    "balanced_sampler",
    "read_image",
]
