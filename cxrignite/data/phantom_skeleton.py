"""The phantom's bones: ribs, spine, shoulder girdle.

A rib cage is a stack of tilted hoops: their far and near halves project to the posterior and the
anterior ribs.
"""

from __future__ import annotations

import numpy as np

from cxrignite.data.phantom_geometry import (
    Build,
    Coordinates,
    FloatImage,
    by_side,
    soft_step,
    tube_path,
)

_DEPTH_OF_RIB_CAGE = 0.24  # how far the front of a rib hoop hangs below its back
_NUM_RIBS = 10


def cage_half_width(build: Build, v: FloatImage) -> FloatImage:
    """Half width of the rib cage, a blunt cone.

    Args:
        build: The patient.
        v: Heights, any shape.
    """
    below_top = np.clip((v - build.top) / 1.25, 0, 1)
    width: FloatImage = build.half_width * np.sqrt(1 - (1 - below_top) ** 3.2) + 1e-3
    return width


def ribs(build: Build, at: Coordinates, cage: FloatImage) -> FloatImage:
    """Attenuation of both halves of the rib hoops, the anterior fading towards the sternum.

    Args:
        build: The patient.
        at: Where each pixel lies in the body.
        cage: Half width of the rib cage at each pixel, shape `(size, size)`.
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
        seen = (number >= 0) & (number < _NUM_RIBS)
        if direction > 0:
            fade = soft_step(across - 0.42, 0.05)
        else:
            fade = soft_step(np.abs(u) - 0.08, 0.02)
        # Where the hoop turns, the ray runs along the bone.
        total += seen * fade * strength * (1 + 0.5 * across**4) * tube_path(distance, radius)
    attenuation: FloatImage = build.bone * total * inside
    return attenuation


def spine(build: Build, at: Coordinates) -> FloatImage:
    """Attenuation of the vertebrae, brighter at edges and pedicles, with dark discs between.

    Args:
        build: The patient.
        at: Where each pixel lies in the body.
    """
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
    """Attenuation of clavicles, shoulder blades, and upper arms with their bones.

    Args:
        build: The patient.
        at: Where each pixel lies in the body.
    """
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
