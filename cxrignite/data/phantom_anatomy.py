"""The healthy chest of a phantom image: the patient's build, and the attenuation of each tissue.

The model only resembles a frontal image; it is not an anatomical model. Everything is a smooth
function of two body coordinates, so an image takes a few milliseconds at any size. `u` increases to
the right of the image (the patient's left), `v` downwards. Both are in units of half the image's
side, with the origin between the lungs. A rib cage is a stack of tilted hoops: their far and near
halves project to the posterior and the anterior ribs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatImage = NDArray[np.floating[Any]]


class Coordinates(NamedTuple):
    """Body coordinates of each pixel, and the inverse map.

    Args:
        u: Shape `(size, size)`, increasing to the image's right.
        v: Shape `(size, size)`, increasing downwards.
        pixel: The width of a pixel in body units.
        to_pixels: Shape `(2, 3)`: maps `(u, v, 1)` to `(row, column)`.
    """

    u: FloatImage
    v: FloatImage
    pixel: float
    to_pixels: NDArray[np.float64]


@dataclass(frozen=True)
class Build:
    """The properties that differ between patients; lengths in body units, angles in radians."""

    half_width: float
    top: float
    mediastinum: float
    dome: tuple[float, float]  # height of the diaphragm under the image's left and right lung
    heart_size: float
    heart_angle: float
    rib_spacing: float
    rib_phase: float
    clavicle: tuple[float, float]
    arm_angle: tuple[float, float]
    stomach_bubble: float
    bone: float
    fat: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Build:
        """Draw one patient's build."""
        base = rng.uniform(0.40, 0.58)
        return cls(
            half_width=rng.uniform(0.66, 0.80),
            top=rng.uniform(-0.80, -0.70),
            mediastinum=rng.uniform(0.11, 0.15),
            dome=(base - rng.uniform(0.02, 0.08), base),
            heart_size=rng.uniform(0.88, 1.14),
            heart_angle=rng.uniform(0.45, 0.8),
            rib_spacing=rng.uniform(0.125, 0.15),
            rib_phase=rng.uniform(-0.03, 0.03),
            clavicle=(rng.uniform(0.12, 0.32), rng.uniform(0.12, 0.32)),
            arm_angle=(rng.uniform(-0.5, 0.9), rng.uniform(-0.5, 0.9)),
            stomach_bubble=float(rng.uniform() < 0.4) * rng.uniform(0.5, 1.0),
            bone=rng.uniform(0.8, 1.2),
            fat=rng.uniform(0.0, 1.0),
        )


def body_coordinates(
    size: int, *, angle: float, shift: tuple[float, float], zoom: float
) -> Coordinates:
    """Place the patient in front of the detector.

    Args:
        size: Side of the square image in pixels.
        angle: Rotation in radians.
        shift: Displacement to the right and downwards, in half sides of the image.
        zoom: Magnification; above 1 enlarges.
    """
    axis = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = (axis - shift[0])[None, :], (axis - shift[1])[:, None]
    cos, sin = np.cos(angle), np.sin(angle)
    u = ((cos * x + sin * y) / zoom).astype(np.float32)
    v = ((cos * y - sin * x) / zoom).astype(np.float32)
    half = size / 2
    to_pixels = np.array(
        [
            [half * zoom * sin, half * zoom * cos, half * (1 + shift[1]) - 0.5],
            [half * zoom * cos, -half * zoom * sin, half * (1 + shift[0]) - 0.5],
        ]
    )
    return Coordinates(u, v, 2 / size / zoom, to_pixels)


def smooth_noise(rng: np.random.Generator, size: int, cells: int) -> FloatImage:
    """Draw noise with one random value at each corner of a cell, smooth in between.

    Returns:
        Shape `(size, size)`, of mean 0; of deviation 1 at the corners, less in between.
    """
    corners = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    place = (np.arange(size) + 0.5) * (cells / size)
    offsets = np.abs(place[:, None] - np.arange(cells + 1))
    weights = soft_step((0.5 - offsets).astype(np.float32), 0.25)
    noise: FloatImage = weights @ corners @ weights.T
    return noise


def soft_step(x: FloatImage, softness: float) -> FloatImage:
    """Return a soft edge: 0 far below zero, 1 far above, over about four times `softness`."""
    ramp = np.clip(x / (4 * softness) + 0.5, 0, 1)
    smooth: FloatImage = ramp * ramp * (3 - 2 * ramp)
    return smooth


def by_side(on_right: NDArray[np.bool_], values: tuple[float, float]) -> FloatImage:
    """Return the first value on the image's left half, the second on its right half."""
    return np.where(on_right, np.float32(values[1]), np.float32(values[0]))


def tube_path(distance: FloatImage, radius: float) -> FloatImage:
    """Return the path length through a hollow bone at `distance` from its axis."""
    squared = (distance / radius) ** 2
    path: FloatImage = np.sqrt(np.clip(1 - squared, 0, 1)) - 0.6 * np.sqrt(
        np.clip(1 - squared / 0.55, 0, 1)
    )
    return path


_FIRST_BRANCHES = 8  # vessels that leave each hilum
_FORKS = 4
_POINTS = 16  # along each vessel between two forks
_VESSEL_ATTENUATION = 0.004


class Chest(NamedTuple):
    """A chest without disease.

    Args:
        attenuation: Line integral of the attenuation, dimensionless, shape `(size, size)`.
        lungs: Share of lung that neither heart nor diaphragm covers, in `[0, 1]`, same shape.
    """

    attenuation: FloatImage
    lungs: FloatImage


def draw_chest(build: Build, rng: np.random.Generator, at: Coordinates) -> Chest:
    """Compute the attenuation of a healthy chest."""
    u, v = at.u, at.v
    side = np.abs(u)
    cage = cage_half_width(build, v)
    heart = _heart(build, at)
    base = _diaphragm(build, u)
    soft = 1.2 * at.pixel + 0.006

    mediastinum = build.mediastinum * (1 + 0.35 * np.clip(-0.25 - v, 0, 1) + 0.3 * np.clip(v, 0, 1))
    lungs = soft_step(cage - 0.025 - side, soft) * soft_step(side - mediastinum, 1.5 * soft)
    lungs *= soft_step(base - v, soft)
    open_lungs = lungs * (1 - heart)

    depth = np.sqrt(np.clip(1 - (side / (cage + 0.02)) ** 2, 0, 1))
    body = _body(build, at)
    attenuation = 1.15 * body + 0.25 * body * soft_step(v - base + 0.04, 0.06)  # and the liver
    attenuation += 0.08 * body * soft_step(0.2 - side, 0.06)  # mediastinum
    attenuation -= open_lungs * (0.42 + 0.36 * depth)
    attenuation -= lungs * heart * 0.16 * depth  # lung behind the heart
    attenuation += open_lungs * (_vessels(rng, at) + 0.03 * smooth_noise(rng, len(u), 24))
    attenuation += body * (spine(build, at) + ribs(build, at, cage)) + shoulders(build, at)
    attenuation -= (
        body * 0.16 * soft_step(0.035 - side, 0.012) * soft_step(-0.28 - v, 0.04)
    )  # trachea
    bubble = np.hypot((u - 0.36) / 0.17, (v - base - 0.15) / 0.09)
    attenuation -= 0.3 * build.stomach_bubble * soft_step(1 - bubble, 0.12)
    return Chest(np.maximum(attenuation, 0).astype(np.float32), open_lungs.astype(np.float32))


def _diaphragm(build: Build, u: FloatImage) -> FloatImage:
    """Return the height of the diaphragm: a dome under each lung, low in the costophrenic angle."""
    height = by_side(u > 0, build.dome)
    centre = 0.42 * build.half_width
    offset = (np.abs(u) - centre) / build.half_width
    dome: FloatImage = height + offset**2 * by_side(offset > 0, (0.35, 0.85))
    return dome


def _heart(build: Build, at: Coordinates) -> FloatImage:
    """Return the shadow of heart and great vessels, two thirds of it on the patient's left."""
    u, v = at.u, at.v
    cos, sin = math.cos(build.heart_angle), math.sin(build.heart_angle)
    low = build.dome[1]
    x, y = u - 0.12, v - (low - 0.20)
    along, across = cos * x + sin * y, cos * y - sin * x
    size = build.heart_size
    left = 1 - np.hypot(along / (0.37 * size), across / (0.27 * size))
    right = 1 - np.hypot((u + 0.03) / (0.18 * size), (v - (low - 0.19)) / (0.30 * size))
    knob = 1 - np.hypot((u - 0.09) / 0.12, (v + 0.24) / 0.12)
    trunk = 1 - np.hypot((u - 0.08) / 0.13, (v + 0.02) / 0.26)
    # A soft maximum: where two chambers meet, the border has no notch.
    parts = np.stack([left, right, knob, trunk])
    shadow: FloatImage = np.log(np.exp(14 * parts).sum(axis=0)) / 14
    return soft_step(shadow, 0.045)


def _body(build: Build, at: Coordinates) -> FloatImage:
    """Return the thickness of soft tissue in `[0, 1]`: head, neck, shoulders, trunk."""
    fat = 0.06 * build.fat
    width = build.half_width
    heights = np.array([-1.6, -1.15, -1.0, -0.88, -0.80, -0.66, -0.45, -0.1, 0.4, 1.0, 1.6])
    halves = np.array([0.45, 0.42, 0.27, 0.27, 0.42, 0.80, 0.80, 0.82, 0.84, 0.86, 0.86])
    halves = np.where(heights > -0.85, halves * width / 0.72 + fat, halves)
    rows = np.linspace(-1.6, 1.6, 161)
    smooth = ndimage.gaussian_filter1d(np.interp(rows, heights, halves), 3)
    half = np.interp(at.v, rows, smooth).astype(np.float32)
    thickness: FloatImage = np.clip(1 - (at.u / half) ** 2, 0, 1) ** 0.42
    return thickness


def _vessels(rng: np.random.Generator, at: Coordinates) -> FloatImage:
    """Draw trees of vessels that leave the hila and become thinner at each fork."""
    starts = np.repeat([[-0.15, -0.02], [0.17, -0.06]], _FIRST_BRANCHES, axis=0)
    fan = np.linspace(-1.35, 1.35, _FIRST_BRANCHES)
    angles = np.concatenate([np.pi + fan, fan]) + rng.normal(0, 0.12, len(starts))
    widths = rng.uniform(0.7, 1.2, len(starts))
    hila = ((np.abs(at.u) - 0.17) / 0.06) ** 2 + ((at.v + 0.03) / 0.11) ** 2
    vessels = 0.16 * np.exp(-hila)
    for fork in range(_FORKS):
        lengths = rng.uniform(0.10, 0.22, len(angles))
        bends = rng.normal(0, 0.35, len(angles))
        turns = angles[:, None] + bends[:, None] * np.linspace(0, 1, _POINTS)
        strides = lengths[:, None, None] / _POINTS * np.stack([np.cos(turns), np.sin(turns)], 1)
        paths = starts[:, :, None] + np.cumsum(strides, axis=2)
        mass = np.repeat(_VESSEL_ATTENUATION * widths * lengths / _POINTS, _POINTS)
        vessels += _density(paths, mass, at, blur=0.016 * 0.68**fork)
        starts = np.repeat(paths[:, :, -1], 2, axis=0)
        angles = np.repeat(turns[:, -1], 2) + np.tile([-0.35, 0.35], len(angles))
        angles += rng.normal(0, 0.15, len(angles))
        widths = 0.62 * np.repeat(widths, 2)
    return vessels


def _density(
    paths: NDArray[np.float64], mass: NDArray[np.float64], at: Coordinates, *, blur: float
) -> FloatImage:
    """Return mass at points `(K, 2, P)` on curves as a blurred density on the image."""
    size = len(at.u)
    points = np.concatenate([paths, np.ones_like(paths[:, :1])], axis=1)
    rows, columns = np.einsum("ij,kjp->ikp", at.to_pixels, points).reshape(2, -1)
    total = np.zeros(size * size)
    # Bilinear shares: nearest pixels would give thin vessels jagged edges.
    for row in (np.floor(rows), np.floor(rows) + 1):
        for column in (np.floor(columns), np.floor(columns) + 1):
            share = (1 - np.abs(rows - row)) * (1 - np.abs(columns - column))
            inside = (row >= 0) & (row < size) & (column >= 0) & (column < size)
            index = (row * size + column)[inside].astype(np.intp)
            total += np.bincount(index, (mass * share)[inside], minlength=size * size)
    image = total.reshape(size, size) / at.pixel**2
    sigma = max(blur / at.pixel, 0.4)
    density: FloatImage = ndimage.gaussian_filter(image, sigma, truncate=2.5).astype(np.float32)
    return density


_DEPTH_OF_RIB_CAGE = 0.24  # how far the front of a rib hoop hangs below its back
_NUM_RIBS = 10


def cage_half_width(build: Build, v: FloatImage) -> FloatImage:
    """Return the half width of the rib cage, a blunt cone."""
    below_top = np.clip((v - build.top) / 1.25, 0, 1)
    width: FloatImage = build.half_width * np.sqrt(1 - (1 - below_top) ** 3.2) + 1e-3
    return width


def ribs(build: Build, at: Coordinates, cage: FloatImage) -> FloatImage:
    """Return the attenuation of both halves of the rib hoops; the anterior fades to the sternum.

    `cage` is the half width of the rib cage at each pixel, shape `(size, size)`.
    """
    u, v = at.u, at.v
    across = np.clip(np.abs(u) / cage, 0, 1)
    depth = np.sqrt(np.clip(1 - across**2, 0.003, 1))
    slope = _DEPTH_OF_RIB_CAGE * across / (depth * cage)
    first = build.top + 0.03 + build.rib_phase + 0.012 * np.sign(u)
    inside = np.clip((1 - across) / 0.03, 0, 1)
    total = np.zeros_like(u)
    for direction, strength, radius in ((-1.0, 0.30, 0.026), (1.0, 0.17, 0.030)):
        height = v - first - _DEPTH_OF_RIB_CAGE * (1 + direction * depth)
        number = np.round(height / build.rib_spacing)
        distance = (height - number * build.rib_spacing) / np.sqrt(1 + slope**2)
        exists = (number >= 0) & (number < _NUM_RIBS)
        if direction > 0:
            fade = soft_step(across - 0.42, 0.05)
        else:
            fade = soft_step(np.abs(u) - 0.08, 0.02)
        # At the side of the hoop, the ray runs along the bone.
        total += exists * fade * strength * (1 + 0.5 * across**4) * tube_path(distance, radius)
    attenuation: FloatImage = build.bone * total * inside
    return attenuation


def spine(build: Build, at: Coordinates) -> FloatImage:
    """Return the attenuation of the vertebrae, brighter at edges and pedicles, with dark discs."""
    half = 0.075 + 0.02 * np.clip(at.v + 0.5, 0, 1)
    side = np.abs(at.u)
    column = soft_step(half - side, 0.014)
    edges = np.exp(-(((side - half + 0.012) / 0.012) ** 2))
    rhythm = 0.5 + 0.5 * np.cos(2 * np.pi * (at.v - build.rib_phase) / (0.85 * build.rib_spacing))
    pedicles = np.exp(-(((side - 0.6 * half) / 0.014) ** 2)) * rhythm**4
    bodies = column * (0.09 + 0.06 * np.sqrt(rhythm))
    attenuation: FloatImage = build.bone * (bodies + 0.035 * edges + 0.05 * pedicles)
    return attenuation


def shoulders(build: Build, at: Coordinates) -> FloatImage:
    """Return the attenuation of clavicles, shoulder blades, and upper arms with their bones."""
    v, side, on_right = at.v, np.abs(at.u), at.u > 0
    width = build.half_width
    rise = by_side(on_right, build.clavicle) * (side - 0.07)
    axis = build.top + 0.20 - rise + 0.03 * np.sin(7 * (side - 0.07))
    bone = 0.38 * tube_path(v - axis, 0.034)
    bone *= soft_step(side - 0.07, 0.01) * soft_step(width - side, 0.02)

    medial = (0.83 + 0.25 * v) * width / 0.72
    blade = soft_step(side - medial, 0.006) * soft_step(1.42 * width - side, 0.03)
    bone += 0.07 * blade * soft_step(0.22 - np.abs(v + 0.38), 0.02)

    angle = by_side(on_right, build.arm_angle)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = side - 1.12 * width, v - (build.top + 0.24)
    along, across = cos * x - sin * y, cos * y + sin * x
    from_joint = np.hypot(along, across)
    from_arm = np.where(along > 0, np.abs(across), from_joint)
    bone += 0.16 * np.sqrt(np.clip(1 - (from_joint / 0.085) ** 2, 0, 1))
    bone += 0.36 * tube_path(across, 0.048) * soft_step(along - 0.06, 0.02)
    flesh = 0.4 * np.clip(1 - (from_arm / 0.19) ** 2, 0, 1) ** 0.7
    attenuation: FloatImage = build.bone * bone + flesh
    return attenuation
