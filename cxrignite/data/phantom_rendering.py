"""Rendering of one synthetic chest X-ray from a seed: chest, findings and X-ray machine.

Patient, machine and each finding have separate random streams, so that a label changes only its
finding. Images of the same seed with and without it differ only inside of its mask, and by the blur
just around it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cxrignite.data.phantom_anatomy import (
    Build,
    Chest,
    Coordinates,
    FloatImage,
    body_coordinates,
    cage_half_width,
    draw_chest,
    smooth_noise,
    soft_step,
)

_FULL_LUNG = 0.75  # attenuation that a filled lung adds
_LUNG_SHARE = 0.25  # least share of a pixel that counts as lung
_LETTERS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


class Rendering(NamedTuple):
    """An image, with masks of its opacities and its lungs.

    Args:
        image: uint8, shape `(size, size)`; high attenuation is bright.
        lesion: bool, same shape; all False on a normal image.
        lungs: bool, same shape: the lungs without the parts behind heart and diaphragm.
    """

    image: NDArray[np.uint8]
    lesion: NDArray[np.bool_]
    lungs: NDArray[np.bool_]


class FindingsRendering(NamedTuple):
    """An image, with a mask of each finding that is present.

    Args:
        image: uint8, shape `(size, size)`; high attenuation is bright.
        masks: bool, same shape, by the name of the finding.
        lungs: bool, same shape: the lungs without the parts behind heart and diaphragm.
    """

    image: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]
    lungs: NDArray[np.bool_]


def render_phantom(
    seed: int, *, size: int, positive: bool, patient_seed: int | None = None
) -> Rendering:
    """Render one image.

    Args:
        seed: Seed of pose, exposure, noise and opacities.
        size: Side of the square image in pixels, at least 32.
        positive: True adds opacities to the lungs.
        patient_seed: Seed of the anatomy, so that images can show one patient; `seed` if None.

    Raises:
        ValueError: If `size` is below 32.
    """
    present = ["Opacity"] if positive else []
    image, masks, lungs = render_findings(
        seed, size=size, present=present, patient_seed=patient_seed
    )
    return Rendering(image, masks.get("Opacity", np.zeros_like(lungs)), lungs)


def render_findings(
    seed: int, *, size: int, present: Collection[str], patient_seed: int | None = None
) -> FindingsRendering:
    """Render one image with any of the findings in `FINDINGS`.

    Args:
        seed: Seed of pose, exposure, noise and findings.
        size: Side of the square image in pixels, at least 32.
        present: Names of the findings in the image.
        patient_seed: Seed of the anatomy, so that images can show one patient; `seed` if None.

    Returns:
        The image and its masks.

    Raises:
        ValueError: If `size` is below 32.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")
    patient = np.random.default_rng([0, seed if patient_seed is None else patient_seed])
    machine = np.random.default_rng([1, seed])

    at = body_coordinates(
        size,
        angle=machine.normal(0, 0.035),
        shift=(machine.normal(0, 0.035), machine.normal(0, 0.03)),
        zoom=machine.uniform(0.92, 1.1),
    )
    build = Build.draw(patient)
    chest = draw_chest(build, patient, at)
    attenuation = chest.attenuation + _faint_spots(machine, at)
    shadows = {
        name: draw(np.random.default_rng([2 + number, seed]), build, chest, at)
        for number, (name, draw) in enumerate(_DRAWINGS.items())
        if name in present
    }
    total = np.zeros_like(attenuation)
    for name, shadow in shadows.items():
        # Fluid hides a consolidation; a nodule stays visible in front of both.
        total = total + shadow if name == "Nodule" else np.maximum(total, shadow)
    image = _expose(machine, attenuation, total, at)
    masks = {name: shadow > 0 for name, shadow in shadows.items()}
    return FindingsRendering(image, masks, chest.lungs >= _LUNG_SHARE)


def _opacities(rng: np.random.Generator, build: Build, chest: Chest, at: Coordinates) -> FloatImage:
    """Draw one to three patches of consolidation: ragged, mottled, some barely visible."""
    local_share = ndimage.uniform_filter(chest.lungs, max(3, int(0.12 / at.pixel)))
    places = np.flatnonzero(local_share >= min(0.8, local_share.max()))
    total = np.zeros_like(chest.lungs)
    for _ in range(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15])):
        place = places[rng.integers(len(places))]
        x, y = at.u - at.u.flat[place], at.v - at.v.flat[place]
        angle = rng.uniform(0, np.pi)
        radius, stretch = rng.uniform(0.18, 0.28), rng.uniform(0.75, 1.35)
        along = (np.cos(angle) * x + np.sin(angle) * y) / (radius * stretch)
        across = (np.cos(angle) * y - np.sin(angle) * x) * stretch / radius
        ragged = np.exp(0.5 * smooth_noise(rng, len(x), 12) + 0.2 * smooth_noise(rng, len(x), 30))
        patch = np.clip(np.exp(-0.5 * (along**2 + across**2) * ragged) - 0.3, 0, 0.7)
        # Consolidation stops at the mediastinum: the other lung has its own patches.
        patch *= np.sign(at.u) == np.sign(at.u.flat[place])
        strength = np.exp(rng.uniform(np.log(0.6), np.log(2.6)))
        total += strength * patch
    # A completely filled lung attenuates like soft tissue, not more.
    total = _FULL_LUNG * (1 - np.exp(-total / _FULL_LUNG)) * chest.lungs
    mottled = 0.22 * smooth_noise(rng, len(total), 22) + 0.15 * smooth_noise(rng, len(total), 40)
    total *= np.clip(1 + mottled, 0.4, 1.6)
    # A border too faint for the image would only enlarge the mask.
    opacity: FloatImage = np.where((chest.lungs >= _LUNG_SHARE) & (total >= 0.01), total, 0)
    return opacity


def _effusions(rng: np.random.Generator, build: Build, chest: Chest, at: Coordinates) -> FloatImage:
    """Draw fluid at the base of one lung or both: blunted angle, upper border as a meniscus."""
    sides = [rng.choice([-1, 1])] if rng.uniform() < 0.75 else [-1, 1]
    lateral = np.clip(np.abs(at.u) / cage_half_width(build, at.v), 0, 1)
    total = np.zeros_like(at.u)
    for side in sides:
        dome = build.dome[int(side > 0)]
        # A third of the lung or more, so that a coarse map can locate it.
        level = dome + rng.uniform(-0.70, -0.25)
        rise, width = rng.uniform(0.10, 0.20), rng.uniform(0.15, 0.3)
        border = level + rise * (1 - np.exp((lateral - 1) / width))
        fluid = soft_step(at.v - border, 0.012 + 0.5 * at.pixel)
        total += rng.uniform(0.70, 0.92) * fluid * (np.sign(at.u) == side)
    total *= chest.lungs
    effusion: FloatImage = np.where((chest.lungs >= _LUNG_SHARE) & (total >= 0.05), total, 0)
    return effusion


def _nodules(rng: np.random.Generator, build: Build, chest: Chest, at: Coordinates) -> FloatImage:
    """Draw one to three round shadows with a sharp border, in the lungs above the diaphragm."""
    local_share = ndimage.uniform_filter(chest.lungs, max(3, int(0.12 / at.pixel)))
    local_share[at.v > build.dome[0] - 0.05] = 0
    places = np.flatnonzero(local_share >= min(0.9, local_share.max()))
    total = np.zeros_like(at.u)
    for _ in range(rng.integers(1, 4)):
        place = places[rng.integers(len(places))]
        radius = max(rng.uniform(0.13, 0.20), at.pixel)
        distance = np.hypot(at.u - at.u.flat[place], at.v - at.v.flat[place])
        sphere = np.sqrt(np.clip(1 - (distance / radius) ** 2, 0, 1))
        total = np.maximum(total, rng.uniform(0.5, 0.9) * sphere)
    total *= chest.lungs
    nodules: FloatImage = np.where((chest.lungs >= _LUNG_SHARE) & (total >= 0.05), total, 0)
    return nodules


_DRAWINGS = {"Opacity": _opacities, "Effusion": _effusions, "Nodule": _nodules}

FINDINGS = tuple(_DRAWINGS)
"""The findings that can be rendered."""


def _faint_spots(rng: np.random.Generator, at: Coordinates) -> FloatImage:
    """Draw distractors for both classes: the round shadows of nipples."""
    spots = np.zeros_like(at.u)
    for side in (-1, 1):
        strength = rng.uniform(0.04, 0.12) * (rng.uniform() < 0.35)
        x, y = at.u - side * rng.uniform(0.36, 0.5), at.v - rng.uniform(0.1, 0.3)
        spots += strength * np.exp(-(np.hypot(x, y) ** 2) / rng.uniform(0.02, 0.035) ** 2)
    return spots


def _expose(
    rng: np.random.Generator, attenuation: FloatImage, opacity: FloatImage, at: Coordinates
) -> NDArray[np.uint8]:
    """Expose the attenuation: beam profile, blur, noise, window, gamma, collimation, marker.

    The window is set from the chest without opacities: otherwise a lesion would darken the rest of
    the image, and the label could be predicted from that.
    """
    size = len(attenuation)
    low, high = np.percentile(attenuation, [3, 99])
    tilt = rng.normal(0, 0.05, 2)
    blur = rng.uniform(0.0045, 0.009) / at.pixel
    signal = ndimage.gaussian_filter(attenuation + opacity, blur, truncate=3)
    signal += tilt[0] * at.u + tilt[1] * at.v
    # Beer-Lambert: few photons behind thick tissue, and log(N) has deviation 1 / sqrt(N).
    photons = 10 ** rng.uniform(3.5, 4.4) * np.exp(-signal)
    grain = rng.standard_normal((size, size), dtype=np.float32)
    signal += ndimage.gaussian_filter(grain, 0.5, truncate=3) * 2 / np.sqrt(photons)

    low += rng.normal(0, 0.04) * (high - low)
    high += rng.normal(0.08, 0.06) * (high - low)
    grey = np.clip((signal - low) / (high - low), 0, 1) ** np.exp(rng.normal(0.1, 0.18))
    grey = rng.uniform(0.0, 0.08) + rng.uniform(0.78, 0.95) * grey
    grey = _collimate(rng, grey)
    return (255 * np.clip(_stamp(rng, grey), 0, 1) + 0.5).astype(np.uint8)


def _collimate(rng: np.random.Generator, grey: FloatImage) -> FloatImage:
    """Draw the dark frame of the shutters, with random margins, for some images."""
    size = len(grey)
    margins = (rng.uniform(0, 0.05, 4) * size * (rng.uniform(size=4) < 0.3)).astype(int)
    framed = np.zeros_like(grey) + rng.uniform(0, 0.04)
    inside = np.s_[margins[0] : size - margins[1], margins[2] : size - margins[3]]
    framed[inside] = grey[inside]
    return framed


def _stamp(rng: np.random.Generator, grey: FloatImage) -> FloatImage:
    """Draw a lead letter on the patient's side: R on the image's left, L on its right."""
    letter = "R" if rng.uniform() < 0.7 else "L"
    present = rng.uniform() < 0.6
    size = len(grey)
    pixels = np.array([[int(bit) for bit in row] for row in _LETTERS[letter]])
    scale = max(1, round(size * rng.uniform(0.009, 0.013)))
    glyph = np.kron(pixels, np.ones((scale, scale), int))
    row = int(rng.uniform(0.04, 0.25) * size)
    margin = int(rng.uniform(0.03, 0.08) * size)
    column = margin if letter == "R" else size - margin - glyph.shape[1]
    if present:
        window = grey[row : row + glyph.shape[0], column : column + glyph.shape[1]]
        np.maximum(window, 0.95 * glyph, out=window)
    return grey
