"""What stands along the endless street: a style for each seed, and for each stretch of road its objects.

The world is right-handed to a driver: x to the right, y up, z ahead, in metres, with the road's middle at
x = 0 and its surface at y = 0. Everything is made of textured parallelograms. A stretch is a function of
(seed, its number), so the drive never ends and any moment can be rendered first.
"""

import itertools
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ndsc.scene.atlas import Material
from ndsc.scene.objects import BAY_M, Objects
from ndsc.scene.pieces import Pieces, Shape
from ndsc.scene.styles import GRASS_TINTS, LEAF_TINTS, STREETS, WEATHERS, Colour, Street
from ndsc.scene.textures import ROAD_PERIOD_M, RoadLayout

BLOCK_M = 16.0
"""Length of one stretch of road; a multiple of every ground texture's period."""
BLOCKS_AHEAD = 11
VIEW_DISTANCE_M = BLOCK_M * (BLOCKS_AHEAD - 1)
NEIGHBOURHOOD_BLOCKS = 14
"""After so many stretches the kind of street may change."""
CAR_SLOT_M = 34.0
"""Room for at most one car in the oncoming lane."""
SKY_HEIGHT_M = 900.0


class World:
    """The street of one seed.

    :param seed: 0 or more; seeds differ in light, colours, road and what stands beside it.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = self._generator(0, 0)
        base = WEATHERS[int(rng.integers(len(WEATHERS)))]
        self.weather = base
        azimuth, elevation = rng.uniform(-2.6, 2.6), rng.uniform(0.5, 1.05)
        toward = np.asarray(
            [
                math.cos(elevation) * math.sin(azimuth),
                math.sin(elevation),
                math.cos(elevation) * math.cos(azimuth),
            ]
        )
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
        lead = self._objects(self._generator(4, 0))
        lead.car(self.lane_middle_m, 0.0, ahead=True)
        self._lead = lead.array()

    def _generator(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, purpose, number % 2**64])

    def _objects(self, rng: np.random.Generator) -> Objects:
        return Objects(rng, self._leaves, self._shadow_per_m)

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
            pieces.add(
                (x0, 0, start_m),
                (x1 - x0, 0, 0),
                (0, 0, length),
                material,
                size,
                tint,
                start=begin,
                shape=ground,
            )

        pieces.add(
            (-half, 0, start_m), (2 * half, 0, 0), (0, 0, length), Material.ROAD, (256, rows), shape=ground
        )
        for side in (-1, 1):
            edges = np.cumsum([half, 0.18, self._verge_m, self._pavement_m]) * side
            kinds = (
                (Material.PLAIN, 32.0, (1.0, 0.98, 0.95)),
                (Material.GRASS, 32.0, self._grass),
                (Material.PAVEMENT, 32.0, self._pavement_tint),
            )
            for (x0, x1), (material, scale, tint) in zip(
                itertools.pairwise(edges.tolist()), kinds, strict=True
            ):
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
        objects = self._objects(rng)
        kerb = self.layout.half_width_m + 0.18
        lot = kerb + self._verge_m + self._pavement_m
        for side in (-1, 1):
            self._buildings(objects, rng, street, side, lot)
            self._plants(objects, rng, street, side, kerb, lot)
            self._furniture(objects, rng, street, side, kerb, number)
            if rng.random() < street.parked and self.layout.half_width_m > self.layout.lane_m + 1:
                middle = side * (self.layout.half_width_m - 1.05)
                for slot in range(int(rng.integers(1, 3))):
                    objects.car(middle, 1.0 + slot * 7.2 + float(rng.uniform(0, 1.4)), ahead=side > 0)
        return objects.array()

    def _buildings(
        self, objects: Objects, rng: np.random.Generator, street: Street, side: int, lot: float
    ) -> None:
        start = 0.0
        while start < BLOCK_M - 6:
            bays = int(rng.integers(2, 5)) if street.setback_m[0] < 2.6 else int(rng.integers(2, 4))
            length = min(bays * BAY_M, BLOCK_M - start)
            bays = max(int(length / BAY_M), 1)
            gap = 0.0 if street.setback_m[1] < 1 else float(rng.uniform(0.6, 4.5))
            if rng.random() < street.buildings * self._building_density:
                objects.building(street, side, lot, start, length, bays)
            start += length + gap

    def _plants(
        self, objects: Objects, rng: np.random.Generator, street: Street, side: int, kerb: float, lot: float
    ) -> None:
        row = kerb + 0.5 * self._verge_m + 0.35 if self._verge_m else kerb + 0.6
        for _ in range(int(rng.poisson(street.trees * self._tree_density))):
            objects.tree(
                street,
                side * (row + float(rng.uniform(-0.1, 0.3))),
                float(rng.uniform(0, BLOCK_M)),
                small=True,
            )
        if street.setback_m[1] > 4:
            for _ in range(int(rng.poisson(1.6 * street.trees * self._tree_density))):
                objects.tree(
                    street,
                    side * float(rng.uniform(lot + 2, lot + 16)),
                    float(rng.uniform(0, BLOCK_M)),
                    small=False,
                )
        if rng.random() < street.hedges:
            tint = objects.leaf_tint()
            height, x = float(rng.uniform(0.8, 1.7)), lot + 0.2
            x0, x1 = sorted((side * x, side * (x + 0.9)))
            z0, z1 = float(rng.uniform(0, 3)), float(rng.uniform(11, BLOCK_M))
            objects.box((x0, 0, z0), (x1, height, z1), Material.HEDGE, 64, tint)
            objects.cast((side * x, 0, z0), (0, 0, z1 - z0), height)
        elif street.setback_m[1] > 4 and rng.random() < 0.5:
            wood = ((0.95, 0.95, 0.93), (0.72, 0.52, 0.36), (0.45, 0.36, 0.30))[int(rng.integers(3))]
            z0, z1 = (BLOCK_M, 0.0) if side > 0 else (0.0, BLOCK_M)
            objects.add(
                (side * (lot + 0.3), 0, z0), (0, 0, z1 - z0), (0, 1.1, 0), Material.FENCE,
                (BLOCK_M * 40, 64), wood, shape=Shape.CUTOUT, one_sided=False,
            )  # fmt: skip

    def _furniture(
        self, objects: Objects, rng: np.random.Generator, street: Street, side: int, kerb: float, number: int
    ) -> None:
        if (number + (side > 0)) % 2 == 0 and rng.random() < street.lamps:
            objects.lamp(side * (kerb + 0.4), float(rng.uniform(3, 13)), side)
        if rng.random() < 0.28:
            objects.sign(side * (kerb + 0.55), float(rng.uniform(1, 15)))
        if rng.random() < 0.30:
            first = float(rng.uniform(0, 8))
            for post in range(int(rng.integers(2, 5))):
                x, z = side * (kerb + 0.2), first + 2.0 * post
                objects.add(
                    (x - 0.07, 0, z), (0.14, 0, 0), (0, 1.0, 0), Material.STRIPES, (16, 96), one_sided=False
                )
        if rng.random() < 0.2:
            x, z = side * (kerb + 1.1), float(rng.uniform(0, 14))
            tint = ((0.20, 0.32, 0.22), (0.16, 0.22, 0.40), (0.45, 0.40, 0.32))[int(rng.integers(3))]
            objects.box((x - 0.35, 0, z), (x + 0.35, 1.1, z + 0.6), Material.PLAIN, 48, tint)

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
        objects = self._objects(rng)
        if rng.random() < self._traffic:
            at = float(rng.uniform(0, CAR_SLOT_M - 8))
            objects.car(-self.lane_middle_m + float(rng.uniform(-0.2, 0.2)), at, ahead=False)
        return objects.array()
