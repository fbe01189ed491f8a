"""Textured parallelograms, of which everything in the drive is made.

Positions are in metres: x to the right, y up, z ahead.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ndsc.scene.atlas import Material
from ndsc.scene.styles import Colour

Vector = tuple[float, float, float]


class Shape(IntEnum):
    """How a parallelogram covers its area."""

    SOLID = 0
    CUTOUT = 1
    """Where its texture's alpha is above one half."""
    GABLE = 2
    """The triangle under the middle of its upper edge."""
    GROUND = 3
    """Solid, and takes shadows."""
    SKY = 4
    BOX_SHADOW = 5
    SOFT_SHADOW = 6
    """The ellipse that touches its edges."""


FIELDS = 20
"""Columns of a parallelogram: origin, right edge, up edge (3 each), material, u0, v0, texels right,
texels up, tint (3), shape, one-sided, unlit."""


class Pieces:
    """A growing list of parallelograms.

    ``origin`` is the lower left corner as seen from outside, ``right`` and ``up`` are the edges from it.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[float, ...]] = []

    def add(
        self,
        origin: Vector,
        right: Vector,
        up: Vector,
        material: Material,
        texels: tuple[float, float],
        tint: Colour = (1.0, 1.0, 1.0),
        *,
        start: tuple[float, float] = (0.0, 0.0),
        shape: Shape = Shape.SOLID,
        one_sided: bool = True,
        unlit: bool = False,
    ) -> None:
        """Adds one parallelogram.

        :param texels: how many texels of the material lie along ``right`` and ``up``; negative mirrors.
        :param start: texture position at ``origin``.
        :param unlit: take the mean light of the scene whatever way it faces.
        """
        flags = (float(shape), float(one_sided), float(unlit))
        self._rows.append((*origin, *right, *up, float(material), *start, *texels, *tint, *flags))

    def box(
        self,
        low: Vector,
        high: Vector,
        material: Material,
        texels_per_m: float,
        tint: Colour,
        *,
        top: bool = True,
        inner_only: bool = True,
    ) -> None:
        """The near end, the sides and the top of an upright box.

        With ``inner_only``, a box that stands wholly on one side of the road has only the side towards it.
        """
        (x0, y0, z0), (x1, y1, z1) = low, high
        dx, dy, dz = x1 - x0, y1 - y0, z1 - z0
        across, deep, tall = dx * texels_per_m, dz * texels_per_m, dy * texels_per_m
        self.add((x0, y0, z0), (dx, 0, 0), (0, dy, 0), material, (across, tall), tint)
        if x1 <= 0 or not inner_only:
            self.add((x1, y0, z0), (0, 0, dz), (0, dy, 0), material, (deep, tall), tint)
        if x0 >= 0 or not inner_only:
            self.add((x0, y0, z1), (0, 0, -dz), (0, dy, 0), material, (deep, tall), tint)
        if top:
            self.add((x0, y1, z0), (dx, 0, 0), (0, 0, dz), material, (across, deep), tint)

    def shadow(self, origin: Vector, right: Vector, up: Vector, shape: Shape) -> None:
        """Adds a shadow that lies on the ground."""
        self.add(origin, right, up, Material.PLAIN, (0, 0), shape=shape, one_sided=False)

    def array(self) -> NDArray[np.float64]:
        """float64 [count, FIELDS]."""
        return np.asarray(self._rows, np.float64).reshape(-1, FIELDS)
