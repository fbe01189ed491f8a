"""Looks to choose from: light and air, kinds of street, and the colours of what stands in it."""

from dataclasses import dataclass

from ndsc.scene.atlas import Material

Colour = tuple[float, float, float]
"""Red, green and blue; display values or factors of them."""


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
    Weather(
        (0.24, 0.45, 0.78),
        (0.74, 0.83, 0.90),
        (0.97, 0.97, 0.98),
        0.35,
        (0.62, 0.58, 0.50),
        (0.50, 0.54, 0.60),
        0.0022,
        0.45,
    ),
    Weather(
        (0.60, 0.65, 0.70),
        (0.83, 0.85, 0.86),
        (0.88, 0.89, 0.90),
        0.75,
        (0.22, 0.22, 0.21),
        (0.68, 0.70, 0.72),
        0.0052,
        0.14,
    ),
    Weather(
        (0.33, 0.44, 0.68),
        (0.96, 0.80, 0.60),
        (1.00, 0.86, 0.70),
        0.40,
        (0.80, 0.58, 0.34),
        (0.40, 0.40, 0.46),
        0.0038,
        0.42,
    ),
    Weather(
        (0.40, 0.60, 0.82),
        (0.86, 0.90, 0.92),
        (0.99, 0.99, 0.98),
        0.55,
        (0.45, 0.43, 0.38),
        (0.58, 0.60, 0.63),
        0.0030,
        0.32,
    ),
    Weather(
        (0.13, 0.36, 0.72),
        (0.62, 0.76, 0.88),
        (0.98, 0.98, 0.99),
        0.12,
        (0.72, 0.68, 0.58),
        (0.42, 0.46, 0.53),
        0.0016,
        0.52,
    ),
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
    Street(
        0.96,
        (3, 6),
        (0.3, 0.8),
        0.15,
        (Material.BRICK, Material.PLASTER, Material.OFFICE),
        0.7,
        0.35,
        0.0,
        0.0,
        0.6,
        1.0,
        True,
    ),
    Street(
        0.80,
        (2, 3),
        (4.0, 7.0),
        0.95,
        (Material.BRICK, Material.PLASTER, Material.TIMBER),
        0.0,
        0.7,
        0.25,
        0.6,
        0.4,
        0.6,
        False,
    ),
    Street(
        0.35,
        (1, 2),
        (7.0, 12.0),
        1.0,
        (Material.TIMBER, Material.PLASTER),
        0.0,
        1.7,
        0.45,
        0.45,
        0.12,
        0.3,
        False,
    ),
    Street(
        0.92,
        (2, 4),
        (1.0, 2.5),
        0.65,
        (Material.PLASTER, Material.BRICK),
        0.25,
        0.6,
        0.1,
        0.2,
        0.65,
        0.8,
        True,
    ),
    Street(
        0.70,
        (2, 9),
        (3.0, 8.0),
        0.0,
        (Material.OFFICE, Material.BRICK, Material.OFFICE),
        0.2,
        0.8,
        0.05,
        0.25,
        0.3,
        1.0,
        True,
    ),
)

WALL_TINTS: dict[Material, tuple[Colour, ...]] = {
    Material.BRICK: (
        (0.74, 0.38, 0.28),
        (0.62, 0.34, 0.28),
        (0.78, 0.56, 0.40),
        (0.80, 0.70, 0.56),
        (0.52, 0.36, 0.32),
    ),
    Material.PLASTER: (
        (0.98, 0.93, 0.80),
        (0.96, 0.82, 0.62),
        (0.86, 0.70, 0.62),
        (0.80, 0.86, 0.88),
        (0.96, 0.95, 0.93),
        (0.78, 0.84, 0.70),
        (0.92, 0.72, 0.50),
    ),
    Material.OFFICE: ((0.82, 0.82, 0.84), (0.62, 0.60, 0.58), (0.94, 0.90, 0.84), (0.50, 0.54, 0.60)),
    Material.TIMBER: (
        (0.95, 0.95, 0.92),
        (0.66, 0.26, 0.20),
        (0.62, 0.72, 0.80),
        (0.92, 0.84, 0.58),
        (0.56, 0.62, 0.50),
    ),
}
ROOF_TINTS: tuple[Colour, ...] = (
    (0.66, 0.34, 0.25),
    (0.42, 0.40, 0.42),
    (0.52, 0.36, 0.28),
    (0.34, 0.36, 0.40),
    (0.72, 0.44, 0.30),
)
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
