"""The things along the street: buildings, trees, lamps, signs and cars."""

import itertools
from collections.abc import Sequence

import numpy as np

from ndsc.scene.atlas import Material
from ndsc.scene.pieces import Pieces, Shape, Vector
from ndsc.scene.styles import CAR_TINTS, ROOF_TINTS, WALL_TINTS, Colour, Street
from ndsc.scene.textures import CAR_HEIGHT_M, CAR_LENGTH_M, CAR_PROFILES, TEXELS_PER_BAY

BAY_M = 3.6
FLOOR_M = 3.1


class Objects(Pieces):
    """Pieces to which whole things can be added, each chosen by ``rng`` and with its shadow.

    :param leaves: colours of foliage to choose from.
    :param shadow_per_m: how far along x and z a shadow reaches for each metre of height.
    """

    def __init__(
        self, rng: np.random.Generator, leaves: Sequence[Colour], shadow_per_m: tuple[float, float]
    ) -> None:
        super().__init__()
        self._rng, self._leaves, self._shadow_per_m = rng, leaves, shadow_per_m

    def cast(self, origin: Vector, along: Vector, height_m: float) -> None:
        """The shadow on the ground of an upright wall that stands on ``along``."""
        dx, dz = self._shadow_per_m
        self.shadow(origin, along, (dx * height_m, 0, dz * height_m), Shape.BOX_SHADOW)

    def _cast_crown(self, x: float, y: float, z: float, radius: float) -> None:
        dx, dz = self._shadow_per_m
        middle_x, middle_z = x + dx * y, z + dz * y
        self.shadow(
            (middle_x - radius, 0, middle_z - radius),
            (2 * radius, 0, 0),
            (0, 0, 2 * radius),
            Shape.SOFT_SHADOW,
        )

    def building(
        self,
        street: Street,
        side: int,
        lot: float,
        z0: float,
        length: float,
        bays: int,
    ) -> None:
        """A house of the street's kind, ``bays`` windows wide, from ``z0`` on, behind the line ``lot``.

        :param side: -1 on the left of the road, 1 on the right.
        """
        near = lot + float(self._rng.uniform(*street.setback_m))
        depth_bays = int(self._rng.integers(2, 4))
        depth = depth_bays * BAY_M
        floors = int(self._rng.integers(street.floors[0], street.floors[1] + 1))
        height = floors * FLOOR_M
        facade = street.facades[int(self._rng.integers(len(street.facades)))]
        tints = WALL_TINTS[facade]
        tint = tints[int(self._rng.integers(len(tints)))]
        tint = (
            tint[0] * self._rng.uniform(0.9, 1.08),
            tint[1] * self._rng.uniform(0.92, 1.05),
            tint[2] * self._rng.uniform(0.9, 1.08),
        )
        x_near, x_far = side * near, side * (near + depth)
        x0, x1 = min(x_near, x_far), max(x_near, x_far)
        texel = TEXELS_PER_BAY
        start = (float(self._rng.integers(4) * texel), float(self._rng.integers(2) * texel))
        foot, direction = ((x_near, z0), length) if side < 0 else ((x_near, z0 + length), -length)
        base = 0.0
        if self._rng.random() < street.shops:
            base = 3.6
            self.add(
                (foot[0], 0, foot[1]),
                (0, 0, direction),
                (0, base, 0),
                Material.SHOP,
                (bays * texel, texel),
                tint,
                start=(start[0], 0),
            )
            self.add((x0, 0, z0), (depth, 0, 0), (0, base, 0), Material.PLAIN, (depth * 24, base * 24), tint)
        self.add(
            (foot[0], base, foot[1]),
            (0, 0, direction),
            (0, height, 0),
            facade,
            (bays * texel, floors * texel),
            tint,
            start=start,
        )
        self.add(
            (x0, base, z0),
            (depth, 0, 0),
            (0, height, 0),
            facade,
            (depth_bays * texel, floors * texel),
            tint,
            start=start,
        )
        top = base + height
        if self._rng.random() < street.pitched:
            rise, eave = depth * float(self._rng.uniform(0.28, 0.45)), 0.4
            roof = ROOF_TINTS[int(self._rng.integers(len(ROOF_TINTS)))]
            ridge = 0.5 * (x0 + x1)
            self.add(
                (x0, top, z0),
                (depth, 0, 0),
                (0, rise, 0),
                facade,
                (depth_bays * texel, texel),
                tint,
                start=(start[0], texel - 34.0),
                shape=Shape.GABLE,
            )
            drop = rise * eave / (depth / 2)
            slope = (side * (depth / 2 + eave), rise + drop, 0.0)
            edge_z, along = (z0 - 0.25, length + 0.5) if side < 0 else (z0 + length + 0.25, -length - 0.5)
            self.add(
                (x_near - side * eave, top - drop, edge_z),
                (0, 0, along),
                slope,
                Material.ROOF,
                (length * 32, depth * 0.55 * 32),
                roof,
            )
            if self._rng.random() < 0.7:
                cz = z0 + float(self._rng.uniform(0.2, 0.7)) * length
                cx = ridge - side * 1.2
                self.box(
                    (cx - 0.4, top + rise * 0.4, cz),
                    (cx + 0.4, top + rise + 0.7, cz + 0.8),
                    Material.PLAIN,
                    32,
                    (0.62, 0.42, 0.36),
                )
            top += rise * 0.6
        else:
            lip = 0.25
            wall = (tint[0] * 0.9, tint[1] * 0.9, tint[2] * 0.9)
            self.box(
                (x0 - lip, top - 0.25, z0 - 0.05),
                (x1 + lip, top + 0.35, z0 + length + 0.05),
                Material.PLAIN,
                24,
                wall,
                top=False,
            )
        self.cast((x_near, 0, z0), (0, 0, length), top)
        self.cast((x0, 0, z0), (depth, 0, 0), top)
        self.shadow((x_near, 0, z0 - 0.1), (-side * 0.35, 0, 0), (0, 0, length + 0.1), Shape.BOX_SHADOW)

    def leaf_tint(self) -> Colour:
        """One of the seed's leaf colours, a little lighter or darker."""
        red, green, blue = self._leaves[int(self._rng.integers(len(self._leaves)))]
        light = self._rng.uniform(0.85, 1.15)
        return (red * light, green * light, blue * light)

    def tree(self, street: Street, x: float, z: float, small: bool) -> None:
        """A broadleaf tree, or away from the kerb (not ``small``) perhaps a conifer."""
        tint = self.leaf_tint()
        scale = float(self._rng.uniform(0.7, 1.0) if small else self._rng.uniform(0.9, 1.6))
        if not small and self._rng.random() < street.conifers:
            tall, wide = 9.0 * scale, 1.9 * scale
            for size, dz, mirrored in ((1.0, 0.0, False), (0.75, -0.5 * wide, True)):
                reach = wide * size
                self._foliage(
                    (x - reach, 0.5, z + dz), 2 * reach, tall * size, Material.CONIFER, tint, mirrored
                )
            self.add(
                (x - 0.15, 0, z),
                (0.3, 0, 0),
                (0, 1.5, 0),
                Material.BARK,
                (32, 64),
                one_sided=False,
                unlit=True,
            )
            self._cast_crown(x, 0.4 * tall, z, wide)
            return
        crown, trunk = 2.7 * scale, (2.3 if small else 2.0) * scale
        middle = trunk + 0.85 * crown
        self.add(
            (x - 0.14 * scale, 0, z),
            (0.28 * scale, 0, 0),
            (0, trunk + 0.5, 0),
            Material.BARK,
            (32, 128),
            one_sided=False,
            unlit=True,
        )
        material = Material.CROWN_ROUND if self._rng.random() < 0.6 else Material.CROWN_OPEN
        # Flat layers at different depths give the crown parallax of its own.
        for size, dx, dy, dz, mirrored in (
            (1.0, 0.0, 0.0, 0.5, False),
            (0.78, 0.22, 0.12, -0.1, True),
            (0.62, -0.25, -0.2, -0.6, False),
        ):
            reach = crown * size
            left = x + dx * crown * float(self._rng.uniform(0.4, 1)) - reach
            corner = (left, middle + dy * crown - reach, z + dz * crown)
            self._foliage(corner, 2 * reach, 2 * reach, material, tint, mirrored)
        self._cast_crown(x, middle, z, crown * 0.95)

    def _foliage(
        self,
        corner: Vector,
        width_m: float,
        height_m: float,
        material: Material,
        tint: Colour,
        mirrored: bool,
    ) -> None:
        start, texels = (256.0, -256.0) if mirrored else (0.0, 256.0)
        self.add(
            corner, (width_m, 0, 0), (0, height_m, 0), material, (texels, 256), tint,
            start=(start, 0), shape=Shape.CUTOUT, one_sided=False, unlit=True,
        )  # fmt: skip

    def lamp(self, x: float, z: float, side: int) -> None:
        """A street lamp that leans over the road."""
        grey = (0.42, 0.44, 0.45)
        self.add((x - 0.07, 0, z), (0.14, 0, 0), (0, 6.4, 0), Material.PLAIN, (4, 180), grey, one_sided=False)
        tip = x - side * 1.7
        self.add(
            (min(x, tip), 6.3, z),
            (1.7, 0, 0),
            (0, 0.1, 0),
            Material.PLAIN,
            (48, 4),
            grey,
            one_sided=False,
        )
        self.add(
            (tip - 0.35, 6.18, z - 0.01),
            (0.7, 0, 0),
            (0, 0.2, 0),
            Material.PLAIN,
            (24, 8),
            (0.9, 0.9, 0.85),
            one_sided=False,
        )
        self.shadow((x - 0.12, 0, z - 0.12), (0.24, 0, 0), (0, 0, 0.24), Shape.SOFT_SHADOW)

    def sign(self, x: float, z: float) -> None:
        """A traffic sign on a post."""
        face = (Material.SIGN_ROUND, Material.SIGN_SQUARE, Material.SIGN_TRIANGLE)[int(self._rng.integers(3))]
        self.add(
            (x - 0.04, 0, z),
            (0.08, 0, 0),
            (0, 2.3, 0),
            Material.PLAIN,
            (4, 64),
            (0.55, 0.56, 0.58),
            one_sided=False,
        )
        self.add(
            (x - 0.38, 2.05, z - 0.02),
            (0.76, 0, 0),
            (0, 0.76, 0),
            face,
            (64, 64),
            shape=Shape.CUTOUT,
            one_sided=False,
        )

    def car(self, x: float, z: float, ahead: bool) -> None:
        """A car whose tail (``ahead``) or nose is at ``z``; the body is its outline drawn out sideways."""
        kind = int(self._rng.choice([0, 0, 1, 1, 2]))
        outline = CAR_PROFILES[kind]
        tint = CAR_TINTS[int(self._rng.integers(len(CAR_TINTS)))]
        half, length = 0.86, outline[-1][0]
        points: Sequence[tuple[float, float]] = (
            outline if ahead else [(length - a, b) for a, b in reversed(outline)]
        )
        ends = (Material.CAR_REAR, Material.CAR_FRONT) if ahead else (Material.CAR_FRONT, Material.CAR_REAR)
        glass = (2, 4)
        for index, ((a, b), (c, d)) in enumerate(itertools.pairwise(points)):
            material = Material.GLASS if index in glass else Material.PAINT
            texels = (128.0, 64.0)
            if index in (0, len(points) - 2):
                material = ends[0 if index == 0 else 1]
            if material == Material.PAINT:
                texels = (8.0, 8.0)
            self.add((x - half, b, z + a), (2 * half, 0, 0), (0, d - b, c - a), material, texels, tint)
        side = Material(Material.CAR_SIDE_HATCH + kind)
        low = z if ahead else z + length - CAR_LENGTH_M
        for edge in (-1, 1):
            begin, along = (low, CAR_LENGTH_M) if edge > 0 else (low + CAR_LENGTH_M, -CAR_LENGTH_M)
            start, texels_along = (0.0, 256.0) if ahead == (edge > 0) else (256.0, -256.0)
            self.add(
                (x + edge * half, 0, begin), (0, 0, along), (0, CAR_HEIGHT_M, 0), side,
                (texels_along, 128), tint, start=(start, 0), shape=Shape.CUTOUT,
            )  # fmt: skip
        for wheel in (-0.62, 0.62):
            self.add(
                (x + wheel - 0.1, 0, z + 0.6),
                (0.2, 0, 0),
                (0, 0.5, 0),
                Material.PLAIN,
                (8, 16),
                (0.07, 0.07, 0.07),
            )
        self.shadow(
            (x - half - 0.35, 0, z - 0.3), (2 * half + 0.7, 0, 0), (0, 0, length + 0.6), Shape.SOFT_SHADOW
        )
        self.shadow(
            (x - half + 0.05, 0, z + 0.15), (2 * half - 0.1, 0, 0), (0, 0, length - 0.3), Shape.BOX_SHADOW
        )
