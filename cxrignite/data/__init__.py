"""The data room: from files to batches of X-ray films."""

from cxrignite.data.batch_augment import BatchAugment, augment_batch
from cxrignite.data.batch_transforms import (
    RandomAffine,
    RandomBlur,
    RandomErase,
    RandomIntensity,
    RandomLowResolution,
    RandomNoise,
)
from cxrignite.data.loading import Batch, LoaderSettings
from cxrignite.data.manifest import Manifest, ManifestColumns
from cxrignite.data.manifest_labels import ManifestLabels
from cxrignite.data.manifest_patients import ManifestPatients
from cxrignite.data.module import XrayData
from cxrignite.data.pack_building import open_pack
from cxrignite.data.packing import Pack
from cxrignite.data.phantom import Phantom
from cxrignite.data.pipeline import Pipeline
from cxrignite.data.reading import read_image
from cxrignite.data.sampling import BalancedSampler, balanced_sampler
from cxrignite.data.sources import ClassFolders, Film, Source

__all__ = [
    "BalancedSampler",
    "Batch",
    "BatchAugment",
    "ClassFolders",
    "Film",
    "LoaderSettings",
    "Manifest",
    "ManifestColumns",
    "ManifestLabels",
    "ManifestPatients",
    "Pack",
    "Phantom",
    "Pipeline",
    "RandomAffine",
    "RandomBlur",
    "RandomErase",
    "RandomIntensity",
    "RandomLowResolution",
    "RandomNoise",
    "Source",
    "XrayData",
    "augment_batch",
    "balanced_sampler",
    "open_pack",
    "read_image",
]
