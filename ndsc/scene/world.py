"""What stands along the endless street: a style for each seed, and for each stretch of road its objects.

The world is right-handed to a driver: x to the right, y up, z ahead, in metres, with the road's middle at
x = 0 and its surface at y = 0. Everything is made of textured parallelograms. A stretch is a function of
(seed, its number), so the drive never ends and any moment can be rendered first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ndsc.scene.textures import (
    CAR_HEIGHT_M,
    CAR_LENGTH_M,
    CAR_PROFILES,
    ROAD_PERIOD_M,
    TEXELS_PER_BAY,
    Material,
    RoadLayout,
)

BLOCK_M = 16.0
"""Length of one stretch of road; a multiple of every ground texture's period."""
BLOCKS_AHEAD = 11
VIEW_DISTANCE_M = BLOCK_M * (BLOCKS_AHEAD - 1)
NEIGHBOURHOOD_BLOCKS = 14
"""After so many stretches the kind of street may change."""
CAR_SLOT_M = 34.0
"""Room for at most one car in the oncoming lane."""
BAY_M = 3.6
FLOOR_M = 3.1
SKY_HEIGHT_M = 900.0

Colour = tuple[float, float, float]
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
"""Columns of a parallelogram: origin, right edge, up edge (3 each), material, u0, v0, texels right, texels up,
tint (3), shape, one-sided, unlit."""


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
        self.add(origin, right, up, Material.PLAIN, (0, 0), shape=shape, one_sided=False)

    def array(self) -> NDArray[np.float64]:
        """float64 [count, FIELDS]."""
        return np.asarray(self._rows, np.float64).reshape(-1, FIELDS)


@dataclass(frozen=True)
class Weather:
    """Light and air. Colours are display values."""

    sky_top: Colour
    sky_horizon: Colour
    cloud: Colour
    cloud_cover: float
    sun: Colour
    ambient: Colour
    haze_per_m: float
    shadow: float
    """Share of the light that a shadow takes away."""


WEATHERS = (
    Weather((0.24, 0.45, 0.78), (0.74, 0.83, 0.90), (0.97, 0.97, 0.98), 0.35, (0.62, 0.58, 0.50), (0.50, 0.54, 0.60), 0.0022, 0.45),
    Weather((0.60, 0.65, 0.70), (0.83, 0.85, 0.86), (0.88, 0.89, 0.90), 0.75, (0.22, 0.22, 0.21), (0.68, 0.70, 0.72), 0.0052, 0.14),
    Weather((0.33, 0.44, 0.68), (0.96, 0.80, 0.60), (1.00, 0.86, 0.70), 0.40, (0.80, 0.58, 0.34), (0.40, 0.40, 0.46), 0.0038, 0.42),
    Weather((0.40, 0.60, 0.82), (0.86, 0.90, 0.92), (0.99, 0.99, 0.98), 0.55, (0.45, 0.43, 0.38), (0.58, 0.60, 0.63), 0.0030, 0.32),
    Weather((0.13, 0.36, 0.72), (0.62, 0.76, 0.88), (0.98, 0.98, 0.99), 0.12, (0.72, 0.68, 0.58), (0.42, 0.46, 0.53), 0.0016, 0.52),
)


@dataclass(frozen=True)
class Street:
    """The kind of street of one neighbourhood: how likely each thing is along it."""

    buildings: float
    floors: tuple[int, int]
    setback_m: tuple[float, float]
    pitched: float
    facades: tuple[Material, ...]
    shops: float
    trees: float
    conifers: float
    hedges: float
    parked: float
    lamps: float
    paved: bool


STREETS = (
    Street(0.96, (3, 6), (0.3, 0.8), 0.15, (Material.BRICK, Material.PLASTER, Material.OFFICE), 0.7, 0.35, 0.0, 0.0, 0.6, 1.0, True),
    Street(0.80, (2, 3), (4.0, 7.0), 0.95, (Material.BRICK, Material.PLASTER, Material.TIMBER), 0.0, 0.7, 0.25, 0.6, 0.4, 0.6, False),
    Street(0.35, (1, 2), (7.0, 12.0), 1.0, (Material.TIMBER, Material.PLASTER), 0.0, 1.7, 0.45, 0.45, 0.12, 0.3, False),
    Street(0.92, (2, 4), (1.0, 2.5), 0.65, (Material.PLASTER, Material.BRICK), 0.25, 0.6, 0.1, 0.2, 0.65, 0.8, True),
    Street(0.70, (2, 9), (3.0, 8.0), 0.0, (Material.OFFICE, Material.BRICK, Material.OFFICE), 0.2, 0.8, 0.05, 0.25, 0.3, 1.0, True),
)

WALL_TINTS: dict[Material, tuple[Colour, ...]] = {
    Material.BRICK: ((0.74, 0.38, 0.28), (0.62, 0.34, 0.28), (0.78, 0.56, 0.40), (0.80, 0.70, 0.56), (0.52, 0.36, 0.32)),
    Material.PLASTER: ((0.98, 0.93, 0.80), (0.96, 0.82, 0.62), (0.86, 0.70, 0.62), (0.80, 0.86, 0.88), (0.96, 0.95, 0.93), (0.78, 0.84, 0.70), (0.92, 0.72, 0.50)),
    Material.OFFICE: ((0.82, 0.82, 0.84), (0.62, 0.60, 0.58), (0.94, 0.90, 0.84), (0.50, 0.54, 0.60)),
    Material.TIMBER: ((0.95, 0.95, 0.92), (0.66, 0.26, 0.20), (0.62, 0.72, 0.80), (0.92, 0.84, 0.58), (0.56, 0.62, 0.50)),
}
ROOF_TINTS: tuple[Colour, ...] = ((0.66, 0.34, 0.25), (0.42, 0.40, 0.42), (0.52, 0.36, 0.28), (0.34, 0.36, 0.40), (0.72, 0.44, 0.30))
CAR_TINTS: tuple[Colour, ...] = (
    (0.86, 0.87, 0.88), (0.62, 0.64, 0.67), (0.14, 0.14, 0.16), (0.62, 0.08, 0.08), (0.10, 0.18, 0.42),
    (0.95, 0.95, 0.95), (0.30, 0.33, 0.36), (0.16, 0.34, 0.24), (0.85, 0.62, 0.12), (0.40, 0.55, 0.68),
)  # fmt: skip
GRASS_TINTS: tuple[Colour, ...] = ((1.0, 1.0, 1.0), (0.85, 0.95, 0.8), (1.15, 1.02, 0.85), (0.8, 0.9, 0.75))
LEAF_TINTS: tuple[tuple[Colour, ...], ...] = (
    ((1.0, 1.0, 1.0), (0.80, 0.92, 0.80), (1.1, 1.1, 0.75)),
    ((1.35, 1.20, 0.85), (1.15, 1.25, 0.9), (0.95, 1.1, 0.9)),
    ((2.1, 1.15, 0.6), (2.2, 1.45, 0.7), (1.7, 0.75, 0.5), (1.1, 1.0, 0.8)),
    ((0.70, 0.85, 0.75), (0.85, 0.95, 0.70), (0.95, 0.9, 0.85)),
)


class World:
    """The street of one seed.

    :param seed: a non-negative integer; different seeds differ in light, colours, road and what stands beside it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = self._generator(0, 0)
        base = WEATHERS[int(rng.integers(len(WEATHERS)))]
        self.weather = base
        azimuth, elevation = rng.uniform(-2.6, 2.6), rng.uniform(0.5, 1.05)
        toward = np.asarray([math.cos(elevation) * math.sin(azimuth), math.sin(elevation), math.cos(elevation) * math.cos(azimuth)])
        self.sun: NDArray[np.float64] = toward
        """Unit vector towards the sun."""
        self._shadow_per_m = (-float(toward[0] / toward[1]), -float(toward[2] / toward[1]))
        self.light_tint: Colour = (1 + rng.uniform(-0.05, 0.05), 1.0, 1 + rng.uniform(-0.06, 0.06))
        lane = float(rng.uniform(3.0, 3.6))
        parking = float(rng.choice([0.0, 2.2, 2.4]))
        grey = float(rng.uniform(0.32, 0.55))
        warm = float(rng.uniform(-0.02, 0.03))
        yellow = rng.random() < 0.3
        self.layout = RoadLayout(
            half_width_m=lane + (parking or 0.45),
            lane_m=lane,
            asphalt=(grey + warm, grey, grey - warm),
            marking=(0.92, 0.76, 0.25) if yellow else (0.92, 0.92, 0.90),
            centre=str(rng.choice(["dashed", "dashed", "solid", "double"])),
        )
        self._pavement_m = float(rng.uniform(1.6, 3.2))
        self._verge_m = float(rng.choice([0.0, 1.6]))
        self._pavement_tint: Colour = (0.95 + warm, 0.95, 0.95 - 2 * warm)
        self._grass = GRASS_TINTS[int(rng.integers(len(GRASS_TINTS)))]
        self._leaves = LEAF_TINTS[int(rng.integers(len(LEAF_TINTS)))]
        self._tree_density = float(rng.uniform(0.4, 1.5))
        self._building_density = float(rng.uniform(0.75, 1.1))
        self._traffic = float(rng.uniform(0.35, 0.85))
        self._oncoming_m_per_s = float(rng.uniform(6, 12))
        self._lead_phase = float(rng.uniform(0, 2 * math.pi))
        self._first_street = int(rng.integers(len(STREETS)))
        # One stretch is cut into pieces once and then only shifted; the cache changes speed, never content.
        self._cached_block = lru_cache(maxsize=4 * BLOCKS_AHEAD)(self._block)
        self._cached_oncoming = lru_cache(maxsize=64)(self._oncoming)
        lead = Pieces()
        self._car(lead, self._generator(4, 0), self.lane_middle_m, 0.0, ahead=True)
        self._lead = lead.array()

    def _generator(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, number % 2**64])

    @property
    def lane_middle_m(self) -> float:
        """Middle of the right-hand lane."""
        return self.layout.lane_m / 2

    def pieces(self, z_m: float, time_s: float) -> NDArray[np.float64]:
        """Everything that may be seen from distance ``z_m`` at ``time_s``.

        :return: float64 [count, FIELDS]; the origins' z is relative to ``z_m``.
        """
        first = math.floor(z_m / BLOCK_M) - 1
        parts = [self._ground(first * BLOCK_M - z_m)]
        for number in range(first, first + BLOCKS_AHEAD + 1):
            part = self._cached_block(number).copy()
            part[:, 2] += number * BLOCK_M - z_m
            parts.append(part)
        parts.append(self._traffic_pieces(z_m, time_s))
        return np.concatenate(parts)

    def _ground(self, start_m: float) -> NDArray[np.float64]:
        """Sky, far woods and the bands of the ground, from ``start_m`` to the view's end."""
        pieces = Pieces()
        length = BLOCK_M * (BLOCKS_AHEAD + 2)
        ground = Shape.GROUND
        wide = 5000.0
        pieces.add(
            (-wide, SKY_HEIGHT_M, 0), (2 * wide, 0, 0), (0, 0, 40 * wide), Material.CLOUDS,
            (2 * wide * 0.11, 40 * wide * 0.11), shape=Shape.SKY, one_sided=False,
        )  # fmt: skip
        half, rows = self.layout.half_width_m, length / ROAD_PERIOD_M * 512

        def band(x0: float, x1: float, material: Material, texels_per_m: float, tint: Colour) -> None:
            size = ((x1 - x0) * texels_per_m, length * texels_per_m)
            begin = (x0 * texels_per_m, 0.0)
            pieces.add((x0, 0, start_m), (x1 - x0, 0, 0), (0, 0, length), material, size, tint, start=begin, shape=ground)

        pieces.add((-half, 0, start_m), (2 * half, 0, 0), (0, 0, length), Material.ROAD, (256, rows), shape=ground)
        for side in (-1, 1):
            edges = np.cumsum([half, 0.18, self._verge_m, self._pavement_m]) * side
            kinds = ((Material.PLAIN, 32.0, (1.0, 0.98, 0.95)), (Material.GRASS, 32.0, self._grass), (Material.PAVEMENT, 32.0, self._pavement_tint))
            for (x0, x1), (material, scale, tint) in zip(zip(edges[:-1], edges[1:], strict=True), kinds, strict=True):
                if x0 != x1:
                    band(min(x0, x1), max(x0, x1), material, scale, tint)
            inner, outer = sorted((float(edges[-1]), side * 150.0))
            band(inner, outer, Material.GRASS, 32.0, self._grass)
        pieces.add(
            (-260, -1, VIEW_DISTANCE_M), (520, 0, 0), (0, 15, 0), Material.SKYLINE, (1024, 64),
            shape=Shape.CUTOUT, one_sided=False,
        )  # fmt: skip
        return pieces.array()

    def _street(self, number: int) -> Street:
        neighbourhood = number // NEIGHBOURHOOD_BLOCKS
        if neighbourhood in (-1, 0):
            return STREETS[self._first_street]
        return STREETS[int(self._generator(2, neighbourhood).integers(len(STREETS)))]

    def _block(self, number: int) -> NDArray[np.float64]:
        """The pieces of one stretch, z from 0 to about BLOCK_M."""
        rng = self._generator(1, number)
        street = self._street(number)
        pieces = Pieces()
        kerb = self.layout.half_width_m + 0.18
        lot = kerb + self._verge_m + self._pavement_m
        for side in (-1, 1):
            self._buildings(pieces, rng, street, side, lot)
            self._plants(pieces, rng, street, side, kerb, lot)
            self._furniture(pieces, rng, street, side, kerb, number)
            if rng.random() < street.parked and self.layout.half_width_m > self.layout.lane_m + 1:
                middle = side * (self.layout.half_width_m - 1.05)
                for slot in range(int(rng.integers(1, 3))):
                    self._car(pieces, rng, middle, 1.0 + slot * 7.2 + float(rng.uniform(0, 1.4)), ahead=side > 0)
        return pieces.array()

    def _cast(self, pieces: Pieces, origin: Vector, along: Vector, height_m: float) -> None:
        """The shadow on the ground of an upright wall that stands on ``along``."""
        dx, dz = self._shadow_per_m
        pieces.shadow(origin, along, (dx * height_m, 0, dz * height_m), Shape.BOX_SHADOW)

    def _cast_crown(self, pieces: Pieces, x: float, y: float, z: float, radius: float) -> None:
        dx, dz = self._shadow_per_m
        middle_x, middle_z = x + dx * y, z + dz * y
        pieces.shadow((middle_x - radius, 0, middle_z - radius), (2 * radius, 0, 0), (0, 0, 2 * radius), Shape.SOFT_SHADOW)

    def _buildings(self, pieces: Pieces, rng: np.random.Generator, street: Street, side: int, lot: float) -> None:
        start = 0.0
        while start < BLOCK_M - 6:
            bays = int(rng.integers(2, 5)) if street.setback_m[0] < 2.6 else int(rng.integers(2, 4))
            length = min(bays * BAY_M, BLOCK_M - start)
            bays = max(int(length / BAY_M), 1)
            gap = 0.0 if street.setback_m[1] < 1 else float(rng.uniform(0.6, 4.5))
            if rng.random() < street.buildings * self._building_density:
                self._building(pieces, rng, street, side, lot, start, length, bays)
            start += length + gap

    def _building(
        self, pieces: Pieces, rng: np.random.Generator, street: Street, side: int, lot: float, z0: float, length: float, bays: int
    ) -> None:
        near = lot + float(rng.uniform(*street.setback_m))
        depth_bays = int(rng.integers(2, 4))
        depth = depth_bays * BAY_M
        floors = int(rng.integers(street.floors[0], street.floors[1] + 1))
        height = floors * FLOOR_M
        facade = street.facades[int(rng.integers(len(street.facades)))]
        tints = WALL_TINTS[facade]
        tint = tints[int(rng.integers(len(tints)))]
        tint = (tint[0] * rng.uniform(0.9, 1.08), tint[1] * rng.uniform(0.92, 1.05), tint[2] * rng.uniform(0.9, 1.08))
        x_near, x_far = side * near, side * (near + depth)
        x0, x1 = min(x_near, x_far), max(x_near, x_far)
        texel = TEXELS_PER_BAY
        start = (float(rng.integers(4) * texel), float(rng.integers(2) * texel))
        foot, direction = ((x_near, z0), length) if side < 0 else ((x_near, z0 + length), -length)
        base = 0.0
        if rng.random() < street.shops:
            base = 3.6
            pieces.add((foot[0], 0, foot[1]), (0, 0, direction), (0, base, 0), Material.SHOP, (bays * texel, texel), tint, start=(start[0], 0))
            pieces.add((x0, 0, z0), (depth, 0, 0), (0, base, 0), Material.PLAIN, (depth * 24, base * 24), tint)
        pieces.add((foot[0], base, foot[1]), (0, 0, direction), (0, height, 0), facade, (bays * texel, floors * texel), tint, start=start)
        pieces.add((x0, base, z0), (depth, 0, 0), (0, height, 0), facade, (depth_bays * texel, floors * texel), tint, start=start)
        top = base + height
        if rng.random() < street.pitched:
            rise, eave = depth * float(rng.uniform(0.28, 0.45)), 0.4
            roof = ROOF_TINTS[int(rng.integers(len(ROOF_TINTS)))]
            ridge = 0.5 * (x0 + x1)
            pieces.add((x0, top, z0), (depth, 0, 0), (0, rise, 0), facade, (depth_bays * texel, texel), tint, start=(start[0], texel - 34.0), shape=Shape.GABLE)
            drop = rise * eave / (depth / 2)
            slope = (side * (depth / 2 + eave), rise + drop, 0.0)
            edge_z, along = (z0 - 0.25, length + 0.5) if side < 0 else (z0 + length + 0.25, -length - 0.5)
            pieces.add((x_near - side * eave, top - drop, edge_z), (0, 0, along), slope, Material.ROOF, (length * 32, depth * 0.55 * 32), roof)
            if rng.random() < 0.7:
                cz = z0 + float(rng.uniform(0.2, 0.7)) * length
                cx = ridge - side * 1.2
                pieces.box((cx - 0.4, top + rise * 0.4, cz), (cx + 0.4, top + rise + 0.7, cz + 0.8), Material.PLAIN, 32, (0.62, 0.42, 0.36))
            top += rise * 0.6
        else:
            lip = 0.25
            wall = (tint[0] * 0.9, tint[1] * 0.9, tint[2] * 0.9)
            pieces.box((x0 - lip, top - 0.25, z0 - 0.05), (x1 + lip, top + 0.35, z0 + length + 0.05), Material.PLAIN, 24, wall, top=False)
        self._cast(pieces, (x_near, 0, z0), (0, 0, length), top)
        self._cast(pieces, (x0, 0, z0), (depth, 0, 0), top)
        pieces.shadow((x_near, 0, z0 - 0.1), (-side * 0.35, 0, 0), (0, 0, length + 0.1), Shape.BOX_SHADOW)

    def _plants(self, pieces: Pieces, rng: np.random.Generator, street: Street, side: int, kerb: float, lot: float) -> None:
        row = kerb + 0.5 * self._verge_m + 0.35 if self._verge_m else kerb + 0.6
        for _ in range(int(rng.poisson(street.trees * self._tree_density))):
            self._tree(pieces, rng, street, side * (row + float(rng.uniform(-0.1, 0.3))), float(rng.uniform(0, BLOCK_M)), small=True)
        if street.setback_m[1] > 4:
            for _ in range(int(rng.poisson(1.6 * street.trees * self._tree_density))):
                self._tree(pieces, rng, street, side * float(rng.uniform(lot + 2, lot + 16)), float(rng.uniform(0, BLOCK_M)), small=False)
        if rng.random() < street.hedges:
            tint = self._leaf_tint(rng)
            height, x = float(rng.uniform(0.8, 1.7)), lot + 0.2
            x0, x1 = sorted((side * x, side * (x + 0.9)))
            z0, z1 = float(rng.uniform(0, 3)), float(rng.uniform(11, BLOCK_M))
            pieces.box((x0, 0, z0), (x1, height, z1), Material.HEDGE, 64, tint)
            self._cast(pieces, (side * x, 0, z0), (0, 0, z1 - z0), height)
        elif street.setback_m[1] > 4 and rng.random() < 0.5:
            wood = ((0.95, 0.95, 0.93), (0.72, 0.52, 0.36), (0.45, 0.36, 0.30))[int(rng.integers(3))]
            z0, z1 = (BLOCK_M, 0.0) if side > 0 else (0.0, BLOCK_M)
            pieces.add(
                (side * (lot + 0.3), 0, z0), (0, 0, z1 - z0), (0, 1.1, 0), Material.FENCE, (BLOCK_M * 40, 64), wood,
                shape=Shape.CUTOUT, one_sided=False,
            )  # fmt: skip

    def _leaf_tint(self, rng: np.random.Generator) -> Colour:
        red, green, blue = self._leaves[int(rng.integers(len(self._leaves)))]
        light = rng.uniform(0.85, 1.15)
        return (red * light, green * light, blue * light)

    def _tree(self, pieces: Pieces, rng: np.random.Generator, street: Street, x: float, z: float, small: bool) -> None:
        tint = self._leaf_tint(rng)
        scale = float(rng.uniform(0.7, 1.0) if small else rng.uniform(0.9, 1.6))
        cutout = {"shape": Shape.CUTOUT, "one_sided": False, "unlit": True}
        if not small and rng.random() < street.conifers:
            tall, wide = 9.0 * scale, 1.9 * scale
            for turn, dz in ((0, 0.0), (1, -0.5 * wide)):
                u = 0.0 if turn == 0 else 256.0
                width = 256.0 if turn == 0 else -256.0
                shrink = 1 - 0.25 * turn
                pieces.add((x - wide * shrink, 0.5, z + dz), (2 * wide * shrink, 0, 0), (0, tall * shrink, 0), Material.CONIFER, (width, 256), tint, start=(u, 0), **cutout)  # type: ignore[arg-type]
            pieces.add((x - 0.15, 0, z), (0.3, 0, 0), (0, 1.5, 0), Material.BARK, (32, 64), one_sided=False, unlit=True)
            self._cast_crown(pieces, x, 0.4 * tall, z, wide)
            return
        crown, trunk = 2.3 * scale, (2.3 if small else 2.0) * scale
        middle = trunk + 0.85 * crown
        pieces.add((x - 0.14 * scale, 0, z), (0.28 * scale, 0, 0), (0, trunk + 0.5, 0), Material.BARK, (32, 128), one_sided=False, unlit=True)
        material = Material.CROWN_ROUND if rng.random() < 0.6 else Material.CROWN_OPEN
        # Flat layers at different depths give the crown parallax of its own.
        for size, dx, dy, dz, mirrored in ((1.0, 0.0, 0.0, 0.5, False), (0.78, 0.22, 0.12, -0.1, True), (0.62, -0.25, -0.2, -0.6, False)):
            reach = crown * size
            left, bottom = x + dx * crown * float(rng.uniform(0.4, 1)) - reach, middle + dy * crown - reach
            u = (256.0, -256.0) if mirrored else (0.0, 256.0)
            pieces.add((left, bottom, z + dz * crown), (2 * reach, 0, 0), (0, 2 * reach, 0), material, (u[1], 256), tint, start=(u[0], 0), **cutout)  # type: ignore[arg-type]
        self._cast_crown(pieces, x, middle, z, crown * 0.95)

    def _furniture(self, pieces: Pieces, rng: np.random.Generator, street: Street, side: int, kerb: float, number: int) -> None:
        if (number + (side > 0)) % 2 == 0 and rng.random() < street.lamps:
            x, z, grey = side * (kerb + 0.4), float(rng.uniform(3, 13)), (0.42, 0.44, 0.45)
            pieces.add((x - 0.07, 0, z), (0.14, 0, 0), (0, 6.4, 0), Material.PLAIN, (4, 180), grey, one_sided=False)
            tip = x - side * 1.7
            pieces.add((min(x, tip), 6.3, z), (1.7, 0, 0), (0, 0.1, 0), Material.PLAIN, (48, 4), grey, one_sided=False)
            pieces.add((tip - 0.35, 6.18, z - 0.01), (0.7, 0, 0), (0, 0.2, 0), Material.PLAIN, (24, 8), (0.9, 0.9, 0.85), one_sided=False)
            pieces.shadow((x - 0.12, 0, z - 0.12), (0.24, 0, 0), (0, 0, 0.24), Shape.SOFT_SHADOW)
        if rng.random() < 0.28:
            x, z = side * (kerb + 0.55), float(rng.uniform(1, 15))
            face = (Material.SIGN_ROUND, Material.SIGN_SQUARE, Material.SIGN_TRIANGLE)[int(rng.integers(3))]
            pieces.add((x - 0.04, 0, z), (0.08, 0, 0), (0, 2.3, 0), Material.PLAIN, (4, 64), (0.55, 0.56, 0.58), one_sided=False)
            pieces.add((x - 0.38, 2.05, z - 0.02), (0.76, 0, 0), (0, 0.76, 0), face, (64, 64), shape=Shape.CUTOUT, one_sided=False)
        if rng.random() < 0.30:
            first = float(rng.uniform(0, 8))
            for post in range(int(rng.integers(2, 5))):
                x, z = side * (kerb + 0.2), first + 2.0 * post
                pieces.add((x - 0.07, 0, z), (0.14, 0, 0), (0, 1.0, 0), Material.STRIPES, (16, 96), one_sided=False)
        if rng.random() < 0.2:
            x, z = side * (kerb + 1.1), float(rng.uniform(0, 14))
            tint = ((0.20, 0.32, 0.22), (0.16, 0.22, 0.40), (0.45, 0.40, 0.32))[int(rng.integers(3))]
            pieces.box((x - 0.35, 0, z), (x + 0.35, 1.1, z + 0.6), Material.PLAIN, 48, tint)

    def _car(self, pieces: Pieces, rng: np.random.Generator, x: float, z: float, ahead: bool) -> None:
        """A car whose tail (``ahead``) or nose is at ``z``; the body is its outline drawn out sideways."""
        kind = int(rng.choice([0, 0, 1, 1, 2]))
        outline = CAR_PROFILES[kind]
        tint = CAR_TINTS[int(rng.integers(len(CAR_TINTS)))]
        half, length = 0.86, outline[-1][0]
        points: Sequence[tuple[float, float]] = outline if ahead else [(length - a, b) for a, b in reversed(outline)]
        ends = (Material.CAR_REAR, Material.CAR_FRONT) if ahead else (Material.CAR_FRONT, Material.CAR_REAR)
        glass = (2, 4)
        for index, ((a, b), (c, d)) in enumerate(zip(points[:-1], points[1:], strict=True)):
            material = Material.GLASS if index in glass else Material.PAINT
            texels = (128.0, 64.0)
            if index in (0, len(points) - 2):
                material = ends[0 if index == 0 else 1]
            if material == Material.PAINT:
                texels = (8.0, 8.0)
            pieces.add((x - half, b, z + a), (2 * half, 0, 0), (0, d - b, c - a), material, texels, tint)
        side = Material(Material.CAR_SIDE_HATCH + kind)
        tall = CAR_HEIGHT_M
        forward = CAR_LENGTH_M if ahead else -CAR_LENGTH_M
        tail = z if ahead else z + length
        for edge in (-half, half):
            pieces.add((x + edge, 0, tail), (0, 0, forward), (0, tall, 0), side, (256, 128), tint, shape=Shape.CUTOUT, one_sided=False)
        for wheel in (-0.62, 0.62):
            pieces.add((x + wheel - 0.1, 0, z + 0.6), (0.2, 0, 0), (0, 0.5, 0), Material.PLAIN, (8, 16), (0.07, 0.07, 0.07))
        pieces.shadow((x - half - 0.35, 0, z - 0.3), (2 * half + 0.7, 0, 0), (0, 0, length + 0.6), Shape.SOFT_SHADOW)
        pieces.shadow((x - half + 0.05, 0, z + 0.15), (2 * half - 0.1, 0, 0), (0, 0, length - 0.3), Shape.BOX_SHADOW)

    def _traffic_pieces(self, z_m: float, time_s: float) -> NDArray[np.float64]:
        """Oncoming cars, and one ahead that falls back and pulls away again; z relative to ``z_m``."""
        # Oncoming cars stand still in a frame that moves with them; slots of that frame are filled by chance.
        travelled = self._oncoming_m_per_s * time_s
        first = math.floor((z_m + travelled) / CAR_SLOT_M) - 1
        parts = []
        for slot in range(first, first + math.ceil(VIEW_DISTANCE_M / CAR_SLOT_M) + 1):
            part = self._cached_oncoming(slot).copy()
            part[:, 2] += slot * CAR_SLOT_M - travelled - z_m
            parts.append(part)
        ahead = self._lead.copy()
        ahead[:, 2] += 62 - 52 * math.cos(2 * math.pi * math.fmod(time_s, 80.0) / 80.0 + self._lead_phase)
        return np.concatenate([*parts, ahead])

    def _oncoming(self, slot: int) -> NDArray[np.float64]:
        """The car, if any, of one slot of the oncoming lane, z from the slot's start."""
        rng = self._generator(3, slot)
        pieces = Pieces()
        if rng.random() < self._traffic:
            at = float(rng.uniform(0, CAR_SLOT_M - 8))
            self._car(pieces, rng, -self.lane_middle_m + float(rng.uniform(-0.2, 0.2)), at, ahead=False)
        return pieces.array()
