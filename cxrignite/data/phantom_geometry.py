"""The phantom's patient: body coordinates, build, and the few shapes that tissues are drawn with.

Everything is a smooth function of two body coordinates, so a film costs a few milliseconds at any
size. `u` runs to the right of the image (the patient's left), `v` downwards; both are in units of
half the image's side, with the origin between the lungs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.floating[Any]]


class Coordinates(NamedTuple):
    """Body coordinates of each pixel, and the way back.

    Args:
        u: Shape `(size, size)`, growing to the image's right.
        v: Shape `(size, size)`, growing downwards.
        pixel: The width of a pixel in body units.
        to_pixels: Shape `(2, 3)`: maps `(u, v, 1)` to `(row, column)`.
    """

    u: FloatImage
    v: FloatImage
    pixel: float
    to_pixels: NDArray[np.float64]


@dataclass(frozen=True)
class Build:
    """What differs between two patients; lengths in body units, angles in radians."""

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
        """Draws one patient's build.

        Args:
            rng: The patient's own stream.
        """
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
    """Places the patient in front of the detector.

    Args:
        size: Side of the square film in pixels.
        angle: Rotation in radians.
        shift: Displacement to the right and downwards, in half sides of the film.
        zoom: Magnification; above 1 enlarges.

    Returns:
        The coordinates of each pixel.
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
    """Noise with one random value at each corner of a cell, smooth between.

    Args:
        rng: Where the values come from.
        size: Side of the result in pixels.
        cells: Cells along a side.

    Returns:
        Shape `(size, size)`, of mean 0; of deviation 1 at the corners, less between.
    """
    corners = rng.standard_normal((cells + 1, cells + 1), dtype=np.float32)
    place = (np.arange(size) + 0.5) * (cells / size)
    offsets = np.abs(place[:, None] - np.arange(cells + 1))
    weights = soft_step((0.5 - offsets).astype(np.float32), 0.25)
    noise: FloatImage = weights @ corners @ weights.T
    return noise


def soft_step(x: FloatImage, softness: float) -> FloatImage:
    """A soft edge: 0 far below zero, 1 far above, over about four times `softness`."""
    ramp = np.clip(x / (4 * softness) + 0.5, 0, 1)
    smooth: FloatImage = ramp * ramp * (3 - 2 * ramp)
    return smooth


def by_side(on_right: NDArray[np.bool_], values: tuple[float, float]) -> FloatImage:
    """The first value on the image's left half, the second on its right half."""
    return np.where(on_right, np.float32(values[1]), np.float32(values[0]))


def tube_path(distance: FloatImage, radius: float) -> FloatImage:
    """Path through a hollow bone at `distance` from its axis: brightest at the cortical edges."""
    squared = (distance / radius) ** 2
    path: FloatImage = np.sqrt(np.clip(1 - squared, 0, 1)) - 0.6 * np.sqrt(
        np.clip(1 - squared / 0.55, 0, 1)
    )
    return path
