"""The data package: sources, splits, reading, caching and batches of X-ray images."""

from typing import TYPE_CHECKING

from cxrignite.lazy_names import lazy_names

if TYPE_CHECKING:
    from cxrignite.data.batch_augment import BatchAugment, augment_batch
    from cxrignite.data.batch_transforms import (
        RandomAffine,
        RandomBlur,
        RandomErase,
        RandomIntensity,
        RandomLowResolution,
        RandomNoise,
    )
    from cxrignite.data.cache_building import open_cache
    from cxrignite.data.class_folders import ClassFolders
    from cxrignite.data.image_cache import ImageCache
    from cxrignite.data.loading import Batch, LoaderSettings
    from cxrignite.data.manifest import Manifest, ManifestColumns
    from cxrignite.data.manifest_join import ManifestJoin
    from cxrignite.data.manifest_labels import ManifestLabels
    from cxrignite.data.manifest_patients import ManifestPatients
    from cxrignite.data.module import XrayData
    from cxrignite.data.phantom import Phantom
    from cxrignite.data.pipeline import Pipeline
    from cxrignite.data.reading import read_image
    from cxrignite.data.sampling import BalancedSampler, balanced_sampler
    from cxrignite.data.sources import ImageRecord, Source
    from cxrignite.data.views import View
else:
    # Many modules import torch or SciPy, which takes seconds; reading an image needs neither.
    __getattr__ = lazy_names(
        __name__,
        {
            "batch_augment": "BatchAugment augment_batch",
            "batch_transforms": "RandomAffine RandomBlur RandomErase "
            "RandomIntensity RandomLowResolution RandomNoise",
            "cache_building": "open_cache",
            "class_folders": "ClassFolders",
            "image_cache": "ImageCache",
            "loading": "Batch LoaderSettings",
            "manifest": "Manifest ManifestColumns",
            "manifest_join": "ManifestJoin",
            "manifest_labels": "ManifestLabels",
            "manifest_patients": "ManifestPatients",
            "module": "XrayData",
            "phantom": "Phantom",
            "pipeline": "Pipeline",
            "reading": "read_image",
            "sampling": "BalancedSampler balanced_sampler",
            "sources": "ImageRecord Source",
            "views": "View",
        },
    )

__all__ = [
    "BalancedSampler",
    "Batch",
    "BatchAugment",
    "ClassFolders",
    "ImageCache",
    "ImageRecord",
    "LoaderSettings",
    "Manifest",
    "ManifestColumns",
    "ManifestJoin",
    "ManifestLabels",
    "ManifestPatients",
    "Phantom",
    "Pipeline",
    "RandomAffine",
    "RandomBlur",
    "RandomErase",
    "RandomIntensity",
    "RandomLowResolution",
    "RandomNoise",
    "Source",
    "View",
    "XrayData",
    "augment_batch",
    "balanced_sampler",
    "open_cache",
    "read_image",
]
