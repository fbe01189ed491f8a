"""Procedural textures of the synthetic drive, drawn from random numbers.

A texture is a float32 picture [height, width, 4] whose sides are powers of two, first row on top. Colours are
display values in [0, 1]. In an opaque texture the alpha channel says how far the surface takes the tint of
its owner (1 for painted wall, 0 for glass); in a cutout texture it is the coverage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]

TEXELS_PER_BAY = 128
"""Texels across one window bay and up one floor of a facade."""
CAR_LENGTH_M = 4.3
CAR_HEIGHT_M = 2.0
"""Extent of the picture of a car's side; a car itself is lower and starts at the left edge."""
ROAD_PERIOD_M = 16.0
"""Length of road after which its texture repeats."""

CAR_PROFILES: tuple[tuple[tuple[float, float], ...], ...] = (
    # (metres from the tail, metres above the road), from the tail's foot over the roof to the nose's foot.
    (
        (0.0, 0.25),
        (0.0, 0.85),
        (0.12, 0.98),
        (0.55, 1.44),
        (2.35, 1.46),
        (3.15, 1.0),
        (4.05, 0.78),
        (4.15, 0.25),
    ),
    (
        (0.0, 0.25),
        (0.0, 0.80),
        (0.65, 0.98),
        (1.25, 1.38),
        (2.55, 1.40),
        (3.30, 0.96),
        (4.2, 0.76),
        (4.3, 0.25),
    ),
    (
        (0.0, 0.28),
        (0.0, 1.05),
        (0.05, 1.20),
        (0.15, 1.92),
        (3.0, 1.94),
        (3.60, 1.22),
        (4.2, 1.0),
        (4.3, 0.28),
    ),
)
"""Side outlines of a hatchback, a saloon and a van."""


@dataclass(frozen=True)
class RoadLayout:
    """What is painted across the road. Lengths are in metres from the middle of the road."""

    half_width_m: float
    lane_m: float
    asphalt: tuple[float, float, float]
    marking: tuple[float, float, float]
    centre: str
    """``"dashed"``, ``"solid"`` or ``"double"``."""


def value_noise(
    rng: np.random.Generator, height: int, width: int, cells_down: int, cells_across: int
) -> Float:
    """Tileable smooth noise in [0, 1], float32 [height, width]."""
    lattice = rng.random((cells_down, cells_across), dtype=np.float32)
    rows = np.arange(height, dtype=np.float32) * np.float32(cells_down / height)
    columns = np.arange(width, dtype=np.float32) * np.float32(cells_across / width)
    row, column = rows.astype(np.intp), columns.astype(np.intp)
    fy, fx = rows - row, columns - column
    fy, fx = fy * fy * (3 - 2 * fy), fx * fx * (3 - 2 * fx)
    down = lattice[row] + (lattice[(row + 1) % cells_down] - lattice[row]) * fy[:, None]
    blended: Float = down[:, column] + (down[:, (column + 1) % cells_across] - down[:, column]) * fx
    return blended


def fractal_noise(
    rng: np.random.Generator, height: int, width: int, cells: int, octaves: int, gain: float = 0.5
) -> Float:
    """A sum of octaves of :func:`value_noise`, scaled to mean near 0.5; float32 [height, width]."""
    total = np.zeros((height, width), np.float32)
    weight, weights = 1.0, 0.0
    for octave in range(octaves):
        down, across = (min(cells << octave, side) for side in (height, width))
        total += np.float32(weight) * value_noise(rng, height, width, down, across)
        weights += weight
        weight *= gain
    return total / np.float32(weights)


def _canvas(height: int, width: int, colour: Sequence[float], alpha: float = 1.0) -> Float:
    picture = np.empty((height, width, 4), np.float32)
    picture[..., :3] = colour
    picture[..., 3] = alpha
    return picture


def _grain(picture: Float, noise: Float, depth: float) -> None:
    """Modulates the colours by ``1 ± depth / 2``."""
    picture[..., :3] *= 1 + np.float32(depth) * (noise[..., None] - np.float32(0.5))


def _inside(
    outline: Sequence[tuple[float, float]], x: NDArray[np.floating], y: NDArray[np.floating]
) -> NDArray[np.bool_]:
    """Even-odd point-in-polygon test for broadcastable coordinates."""
    inside = np.zeros(np.broadcast_shapes(x.shape, y.shape), np.bool_)
    for (x0, y0), (x1, y1) in zip(outline, (*outline[1:], outline[0]), strict=True):
        if y0 != y1:
            crosses = (y0 > y) != (y1 > y)
            inside ^= crosses & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


def _road(rng: np.random.Generator, layout: RoadLayout) -> Float:
    height, width = 512, 256
    picture = _canvas(height, width, layout.asphalt, 0.0)
    _grain(picture, fractal_noise(rng, height, width, 8, 4), 0.30)
    _grain(picture, rng.random((height, width), dtype=np.float32), 0.40)
    x = (np.arange(width, dtype=np.float32) + 0.5) / width * 2 * layout.half_width_m - layout.half_width_m
    z = (np.arange(height, dtype=np.float32) + 0.5) / height * ROAD_PERIOD_M
    # Tyres polish two tracks in each lane and oil darkens the middle of it.
    lane = np.abs(np.abs(x) - layout.lane_m / 2)
    tracks = 1 + 0.07 * np.exp(-(((lane - 0.75) / 0.3) ** 2)) - 0.08 * np.exp(-((lane / 0.35) ** 2))
    picture[..., :3] *= tracks.astype(np.float32)[None, :, None]
    # Two transverse cracks and one repaired patch break up the surface.
    for _ in range(3):
        middle = rng.uniform(0, ROAD_PERIOD_M)
        wave = middle + 0.35 * np.cumsum(rng.normal(0, 0.12, width)).astype(np.float32)
        crack = np.abs(z[:, None] - wave) < 0.025
        picture[crack, :3] *= np.float32(0.6)
    side = rng.choice([-1.0, 1.0])
    patch = (np.abs(z[:, None] - rng.uniform(4, 12)) < 1.6) & (np.abs(x - side * layout.lane_m / 2) < 0.9)
    picture[patch, :3] *= np.float32(0.78)
    paint = np.zeros((height, width), np.bool_)
    if layout.centre == "dashed":
        paint |= (np.abs(x) < 0.075) & ((z % (ROAD_PERIOD_M / 2)) < 3.2)[:, None]
    elif layout.centre == "solid":
        paint |= np.broadcast_to(np.abs(x) < 0.075, paint.shape)
    else:
        paint |= np.broadcast_to(np.abs(np.abs(x) - 0.14) < 0.06, paint.shape)
    edge = np.abs(np.abs(x) - layout.lane_m) < 0.06
    paint |= edge & ((z % 2.0) < 1.2)[:, None] if layout.half_width_m > layout.lane_m + 1 else edge
    worn = np.float32(0.55) + np.float32(0.45) * fractal_noise(rng, height, width, 16, 3)
    cover = (paint * worn)[..., None]
    picture[..., :3] += cover * (np.asarray(layout.marking, np.float32) - picture[..., :3])
    gutter = np.abs(x) > layout.half_width_m - 0.35
    picture[:, gutter, :3] *= np.float32(0.86)
    return picture


def _pavement(rng: np.random.Generator) -> Float:
    picture = _canvas(128, 128, (0.72, 0.70, 0.67))
    slab = rng.random((4, 4), dtype=np.float32).repeat(32, 0).repeat(32, 1)
    _grain(picture, slab, 0.22)
    _grain(picture, fractal_noise(rng, 128, 128, 16, 4), 0.35)
    joint = np.arange(128) % 32 < 1
    picture[joint[:, None] | joint[None, :], :3] *= np.float32(0.62)
    return picture


def _grass(rng: np.random.Generator) -> Float:
    picture = _canvas(256, 256, (0.42, 0.55, 0.25))
    tone = fractal_noise(rng, 256, 256, 8, 5, 0.75)
    _grain(picture, tone, 1.1)
    dry = np.clip(fractal_noise(rng, 256, 256, 4, 3) * 3 - 1.5, 0, 1)[..., None]
    picture[..., :3] += dry * (
        np.asarray((0.58, 0.53, 0.30), np.float32) * (0.5 + tone[..., None]) - picture[..., :3]
    )
    return picture


def _courses(
    rng: np.random.Generator, height: int, width: int, brick_px: int, course_px: int
) -> tuple[Float, NDArray[np.bool_]]:
    """Per-brick tone in [0, 1] and the mask of the mortar, for a running bond."""
    row = np.arange(height) // course_px
    column = (np.arange(width)[None, :] + (row[:, None] % 2) * (brick_px // 2)) % width // brick_px
    tone = rng.random((height // course_px + 1, width // brick_px + 1), dtype=np.float32)[
        row[:, None], column
    ]
    across = (np.arange(width)[None, :] + (row[:, None] % 2) * (brick_px // 2)) % brick_px == 0
    mortar = across | (np.arange(height)[:, None] % course_px == 0)
    return tone, mortar


def _window(rng: np.random.Generator, picture: Float, top: int, left: int, height: int, width: int) -> None:
    """Draws one window with frame, sill, reflection and, at random, curtains or a blind."""
    frame = rng.choice(np.asarray((0.30, 0.85, 0.92), np.float32))
    picture[top - 4 : top + height + 4, left - 4 : left + width + 4] = (frame, frame, frame, 0)
    picture[top + height + 4 : top + height + 9, left - 8 : left + width + 8] = (0.68, 0.66, 0.63, 0)
    picture[top + height + 9 : top + height + 12, left - 6 : left + width + 6, :3] *= np.float32(0.6)
    glass = picture[top : top + height, left : left + width]
    fall = np.linspace(1, 0, height, dtype=np.float32)[:, None, None]
    glass[..., :3] = np.asarray((0.10, 0.13, 0.17), np.float32) + fall * np.asarray(
        (0.26, 0.33, 0.42), np.float32
    ) * rng.uniform(0.3, 1)
    kind = rng.random()
    if kind < 0.3:
        cloth = rng.uniform(0.55, 0.9, 3).astype(np.float32)
        side = max(width // 4, 1)
        folds = (0.8 + 0.2 * np.sin(np.arange(side) * 1.3)).astype(np.float32)[None, :, None]
        glass[:, :side, :3] = cloth * folds
        glass[:, -side:, :3] = cloth * folds
    elif kind < 0.55:
        drop = int(height * rng.uniform(0.2, 0.8))
        slats = (0.72 + 0.16 * (np.arange(drop) % 4 < 2)).astype(np.float32)[:, None, None]
        glass[:drop, :, :3] = slats
    elif kind < 0.62:
        glass[..., :3] = np.asarray((0.95, 0.82, 0.52), np.float32) * (0.7 + 0.3 * fall)
    glass[:, width // 2 - 1 : width // 2 + 2, :3] = frame
    if rng.random() < 0.6:
        glass[height // 3 : height // 3 + 3, :, :3] = frame
    glass[..., 3] = 0


def _facade(rng: np.random.Generator, kind: str) -> Float:
    """Four bays across and two floors up of a wall with windows."""
    bay = TEXELS_PER_BAY
    height, width = 2 * bay, 4 * bay
    picture = _canvas(height, width, (0.86, 0.84, 0.82))
    stain = fractal_noise(rng, height, width, 4, 4)
    if kind == "brick":
        tone, mortar = _courses(rng, height, width, 8, 4)
        _grain(picture, tone, 0.55)
        picture[mortar] = (0.74, 0.72, 0.69, 0.35)
    elif kind == "timber":
        board = np.arange(height) % 8
        picture[..., :3] *= (0.82 + 0.18 * np.minimum(board, 6) / 6).astype(np.float32)[:, None, None]
        _grain(picture, fractal_noise(rng, height, width, 32, 2), 0.12)
    elif kind == "plaster":
        _grain(picture, rng.random((height, width), dtype=np.float32), 0.10)
    _grain(picture, stain, 0.30)
    if kind == "office":
        for floor in range(2):
            for pane in range(8):
                top, left = floor * bay, pane * bay // 2
                glass = picture[top + 26 : top + bay - 4, left + 3 : left + bay // 2 - 3]
                fall = np.linspace(0.85, 0.35, glass.shape[0], dtype=np.float32)[:, None, None]
                glass[..., :3] = np.asarray((0.42, 0.55, 0.66), np.float32) * fall * rng.uniform(0.55, 1.15)
                glass[..., 3] = 0.15
                if rng.random() < 0.3:
                    glass[: rng.integers(8, 60), :, :3] = (0.74, 0.72, 0.66)
        return picture
    tall, wide = int(rng.integers(58, 74)), int(rng.integers(40, 62))
    lintel = rng.random() < 0.5
    for floor in range(2):
        for pane in range(4):
            top, left = floor * bay + 28, pane * bay + (bay - wide) // 2
            if lintel:
                picture[top - 12 : top - 4, left - 8 : left + wide + 8] = (0.78, 0.76, 0.72, 0)
            _window(rng, picture, top, left, tall, wide)
    if kind != "timber":
        band = slice(bay - 4, bay)
        picture[band, :, :3] *= np.float32(1.12)
        picture[bay : bay + 2, :, :3] *= np.float32(0.65)
    return picture


def _shop(rng: np.random.Generator) -> Float:
    """Four shop fronts side by side, each with its own awning and goods."""
    bay = TEXELS_PER_BAY
    picture = _canvas(bay, 4 * bay, (0.55, 0.53, 0.50), 0.5)
    for pane in range(4):
        left = pane * bay
        board = rng.uniform(0.15, 0.8, 3).astype(np.float32)
        picture[6:30, left + 6 : left + bay - 6] = (*board, 0)
        letters = value_noise(rng, 10, bay - 40, 1, 22) > 0.5
        picture[13:23, left + 20 : left + bay - 20, :3][letters] = 1 - board * np.float32(0.6)
        if rng.random() < 0.6:
            stripe = (np.arange(bay - 8) // 8 % 2).astype(np.bool_)
            awning = picture[30:46, left + 4 : left + bay - 4]
            awning[:, stripe] = (0.92, 0.90, 0.86, 0)
            awning[:, ~stripe] = (*rng.uniform(0.2, 0.7, 3), 0)
        glass = picture[48 : bay - 14, left + 8 : left + bay - 40]
        goods = fractal_noise(rng, glass.shape[0], glass.shape[1], 8, 2)
        hue = rng.uniform(0.3, 1.0, 3).astype(np.float32)
        glass[..., :3] = np.float32(0.10) + np.clip(goods * 1.8 - 0.55, 0, 0.8)[..., None] * hue
        glass[..., 3] = 0
        door = picture[50:bay, left + bay - 34 : left + bay - 10]
        door[:] = (*rng.uniform(0.1, 0.5, 3), 0)
        door[6:40, 4:-4, :3] = (0.22, 0.28, 0.33)
    return picture


def _roof(rng: np.random.Generator) -> Float:
    picture = _canvas(128, 256, (0.80, 0.76, 0.74))
    tone, _ = _courses(rng, 128, 256, 8, 8)
    _grain(picture, tone, 0.4)
    _grain(picture, fractal_noise(rng, 128, 256, 4, 3), 0.4)
    edge = (1 - 0.45 * (np.arange(128) % 8 > 5)).astype(np.float32)
    picture[..., :3] *= edge[:, None, None]
    return picture


def _leaves(rng: np.random.Generator, size: int) -> tuple[Float, Float]:
    """Tone and density of foliage: clumps carrying leaf-sized detail."""
    clumps = fractal_noise(rng, size, size, 8, 2)
    fine = fractal_noise(rng, size, size, 32, 3, 0.9)
    return np.clip(0.25 + 0.5 * clumps + 1.5 * (fine - 0.5) + 0.25, 0.1, 1.4), clumps * 0.6 + fine * 0.4


def _crown(rng: np.random.Generator, openness: float) -> Float:
    """A round tree crown lit from above, as a cutout."""
    size = 256
    tone, density = _leaves(rng, size)
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    x, y = axis[None, :], axis[:, None]
    reach = np.full((size, size), -1, np.float32)
    light = np.zeros((size, size), np.float32)
    for _ in range(14):
        angle, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.56)
        bx, by = radius * np.cos(angle), 0.85 * radius * np.sin(angle)
        spread = rng.uniform(0.24, 0.38)
        puff = 1 - ((x - bx) ** 2 + (y - by) ** 2) / spread**2
        nearer = puff > reach
        reach = np.where(nearer, puff, reach)
        light = np.where(nearer, 0.95 - 0.30 * (y - by) / spread - 0.28 * y, light).astype(np.float32)
    picture = _canvas(size, size, (0.36, 0.52, 0.20))
    shade = tone * np.where(reach > 0, light, 0.8)
    picture[..., :3] *= shade[..., None]
    picture[..., 3] = np.clip(
        (reach * 1.4 + (density - 0.5) * (0.9 + 0.7 * openness) - openness * 0.15 + 0.02) * 6 + 0.5, 0, 1
    )
    picture[:2, :, 3] = picture[-2:, :, 3] = 0
    picture[:, :2, 3] = picture[:, -2:, 3] = 0
    return picture


def _conifer(rng: np.random.Generator) -> Float:
    tone, density = _leaves(rng, 256)
    axis = (np.arange(256, dtype=np.float32) + 0.5) / 256
    x, y = np.abs(axis[None, :] * 2 - 1), axis[:, None]
    tier = (y * 7) % 1
    edge = y * (0.55 + 0.45 * tier) - x
    picture = _canvas(256, 256, (0.22, 0.38, 0.22))
    picture[..., :3] *= (tone * (1.15 - 0.55 * tier) * (1.1 - 0.4 * x))[..., None]
    picture[..., 3] = np.clip((edge * 3 + (density - 0.55)) * 8, 0, 1)
    picture[:2, :, 3] = picture[-2:, :, 3] = 0
    picture[:, :2, 3] = picture[:, -2:, 3] = 0
    return picture


def _bark(rng: np.random.Generator) -> Float:
    picture = _canvas(64, 32, (0.40, 0.33, 0.26), 0.3)
    _grain(picture, value_noise(rng, 64, 32, 8, 16), 0.9)
    round_off = 1 - 0.5 * np.abs(np.linspace(-1, 1, 32, dtype=np.float32)) ** 2
    picture[..., :3] *= round_off[None, :, None]
    return picture


def _hedge(rng: np.random.Generator) -> Float:
    picture = _canvas(128, 128, (0.33, 0.47, 0.20))
    picture[..., :3] *= _leaves(rng, 128)[0][..., None]
    return picture


def _car_side(outline: tuple[tuple[float, float], ...]) -> Float:
    """The side of a car, tail at the left: painted panels, side windows, arches, wheels; a cutout."""
    height, width = 128, 256
    x = ((np.arange(width, dtype=np.float32) + 0.5) / width * CAR_LENGTH_M)[None, :]
    y = ((height - np.arange(height, dtype=np.float32) - 0.5) / height * CAR_HEIGHT_M)[:, None]
    body = _inside(outline, x, y)
    picture = _canvas(height, width, (0.9, 0.9, 0.9), 0)
    shade = np.clip(0.55 + 0.45 * y / 1.0, 0.5, 1.05)
    picture[..., :3] *= shade[..., None]
    waist, roof = outline[2][1], outline[3][1]
    middle = 0.5 * (outline[3][0] + outline[4][0])
    pane = [(outline[2][0] + 0.25, waist + 0.03), (outline[3][0] + 0.18, roof - 0.10)]
    pane += [(outline[4][0] - 0.02, roof - 0.10), (outline[5][0] - 0.20, waist + 0.03)]
    window = _inside(pane, x, y) & (np.abs(x - middle) > 0.05)
    picture[window, :3] = (0.11, 0.13, 0.16)
    shine = window & (np.abs((x - y * 0.7) % 1.3 - 0.3) < 0.12)
    picture[shine, :3] = (0.30, 0.35, 0.40)
    seam = ((np.abs(x - middle) < 0.018) | (np.abs(x - middle - 0.95) < 0.018)) & (y > 0.35) & (y < waist)
    picture[seam, :3] *= np.float32(0.5)
    picture[((y < 0.36) & body), :3] *= np.float32(0.45)
    picture[np.broadcast_to(np.abs(y - waist + 0.12) < 0.02, body.shape), :3] *= np.float32(1.15)
    wheel = np.zeros_like(body)
    for hub in (0.78, CAR_LENGTH_M - 0.95):
        distance = np.sqrt((x - hub) ** 2 + (y - 0.32) ** 2)
        picture[distance < 0.39, :3] = (0.05, 0.05, 0.05)
        picture[distance < 0.22, :3] = (0.55, 0.56, 0.58)
        spokes = (distance < 0.19) & (np.cos(5 * np.arctan2(y - 0.32, x - hub)) < 0)
        picture[spokes, :3] = (0.16, 0.16, 0.17)
        wheel |= distance < 0.32
    picture[..., 3] = body | wheel
    return picture


def _car_end(front: bool) -> Float:
    """Tail or nose of a car: lamps, plate, bumper and, in front, a grille."""
    height, width = 64, 128
    picture = _canvas(height, width, (0.9, 0.9, 0.9))
    picture[..., :3] *= np.linspace(1.05, 0.7, height, dtype=np.float32)[:, None, None]
    lamp = (0.93, 0.93, 0.86, 0) if front else (0.72, 0.08, 0.07, 0)
    picture[8:26, 4:24] = lamp
    picture[8:26, -24:-4] = lamp
    picture[11:17, 9:19, :3] = (1.0, 1.0, 0.95) if front else (0.92, 0.45, 0.35)
    picture[11:17, -19:-9, :3] = (1.0, 1.0, 0.95) if front else (0.92, 0.45, 0.35)
    if front:
        picture[10:24, 32:96] = (0.10, 0.10, 0.11, 0)
        picture[12:24:4, 34:94] = (0.45, 0.45, 0.47, 0)
    picture[44:, :, :3] *= np.float32(0.35)
    top = 32 if front else 22
    picture[top : top + 11, 46:82] = (0.93, 0.92, 0.82, 0)
    picture[top + 3 : top + 8, 50:78:4, :3] = (0.1, 0.1, 0.1)
    picture[:, :2, :3] *= np.float32(0.6)
    picture[:, -2:, :3] *= np.float32(0.6)
    return picture


def _glass() -> Float:
    picture = _canvas(64, 128, (0.9, 0.9, 0.9))
    fall = np.linspace(0.42, 0.14, 54, dtype=np.float32)[:, None, None]
    picture[5:59, 7:-7, :3] = fall * np.asarray((0.85, 1.0, 1.12), np.float32)
    picture[5:59, 7:-7, 3] = 0
    # Head rests show through.
    for middle in (38, 90):
        picture[34:56, middle - 9 : middle + 9, :3] *= np.float32(0.45)
    return picture


def _sign(rng: np.random.Generator, kind: str) -> Float:
    axis = (np.arange(64, dtype=np.float32) + 0.5) / 32 - 1
    x, y = axis[None, :], axis[:, None]
    picture = _canvas(64, 64, (0.94, 0.94, 0.92), 0)
    glyph = (np.abs(x) < 0.34) & (np.abs(y) < 0.36)
    glyph = glyph & (value_noise(rng, 64, 64, 9, 9) > 0.5)
    if kind == "round":
        radius = np.sqrt(x * x + y * y)
        picture[..., 3] = radius < 0.96
        picture[radius > 0.68, :3] = (0.78, 0.08, 0.10)
        picture[glyph, :3] = (0.08, 0.08, 0.09)
    elif kind == "square":
        reach = np.maximum(np.abs(x), np.abs(y))
        picture[..., 3] = reach < 0.96
        picture[reach < 0.88, :3] = (0.10, 0.28, 0.66)
        picture[glyph, :3] = (0.95, 0.95, 0.95)
    else:
        rim = np.maximum(np.abs(x) * 1.73 - y - 0.95, y - 0.75)
        picture[..., 3] = rim < 0
        picture[rim > -0.30, :3] = (0.80, 0.08, 0.10)
        picture[(np.abs(x) < 0.07) & (y > -0.2) & (y < 0.35), :3] = (0.06, 0.06, 0.06)
    return picture


def _stripes() -> Float:
    picture = _canvas(64, 16, (0.92, 0.92, 0.90), 0)
    picture[(np.arange(64) // 16 % 2).astype(np.bool_), :, :3] = (0.80, 0.12, 0.10)
    picture[..., :3] *= (1 - 0.45 * np.abs(np.linspace(-1, 1, 16, dtype=np.float32)))[None, :, None]
    return picture


def _plain(rng: np.random.Generator) -> Float:
    picture = _canvas(128, 128, (0.85, 0.85, 0.85))
    _grain(picture, fractal_noise(rng, 128, 128, 8, 5), 0.45)
    return picture


def _fence() -> Float:
    picture = _canvas(64, 64, (0.82, 0.80, 0.76), 0)
    x, y = np.arange(64)[None, :], np.arange(64)[:, None]
    picket = (x % 16 < 9) & (y > np.abs(x % 16 - 4) + 2)
    rail = (np.abs(y - 20) < 4) | (np.abs(y - 48) < 4)
    picture[..., 3] = picket | rail
    picture[rail & ~picket, :3] *= np.float32(0.75)
    return picture


def _skyline(rng: np.random.Generator) -> Float:
    """Distant woods and roofs that close the view down the road; a cutout."""
    height, width = 64, 512
    tone, _ = _leaves(rng, 256)
    picture = _canvas(height, width, (0.42, 0.50, 0.36), 0)
    picture[..., :3] *= np.tile(tone[:height], (1, 2))[..., None]
    top = 18 + 26 * fractal_noise(rng, 1, width, 16, 4, 0.6)[0]
    for _ in range(14):
        left, wide = int(rng.integers(0, width - 40)), int(rng.integers(10, 36))
        roof = float(rng.uniform(22, 50))
        top[left : left + wide] = np.maximum(top[left : left + wide], roof)
        picture[:, left : left + wide, :3] = rng.uniform(0.45, 0.75, 3)
        picture[::6, left + 2 : left + wide - 2 : 4, :3] *= np.float32(0.7)
    up = height - np.arange(height, dtype=np.float32)[:, None]
    picture[..., 3] = up < top[None, :]
    return picture


def _clouds(rng: np.random.Generator, cover: float) -> Float:
    puffs = fractal_noise(rng, 256, 256, 4, 6, 0.55)
    low, high = np.quantile(puffs, [max(0.0, 0.9 - cover), 1.0])
    dense = np.clip((puffs - low) / max(float(high - low) * 0.75, 1e-3), 0, 1)
    picture = _canvas(256, 256, (1, 1, 1))
    picture[..., 0] = dense
    picture[..., 1] = np.clip(1.08 - 0.45 * dense * fractal_noise(rng, 256, 256, 8, 4) * 1.6, 0, 1)
    return picture


def draw_all(rng: np.random.Generator, layout: RoadLayout, cloud_cover: float) -> list[Float]:
    """Every texture of a scene, in the order of the atlas's materials."""
    facades = [_facade(rng, kind) for kind in ("brick", "plaster", "office", "timber")]
    pictures = [_road(rng, layout), _pavement(rng), _grass(rng), *facades, _shop(rng), _roof(rng)]
    pictures += [_crown(rng, 0.0), _crown(rng, 1.0), _conifer(rng), _bark(rng), _hedge(rng)]
    pictures += [_car_side(outline) for outline in CAR_PROFILES]
    pictures += [_car_end(front=False), _car_end(front=True), _canvas(8, 8, (0.92, 0.92, 0.92)), _glass()]
    pictures += [_stripes(), *(_sign(rng, kind) for kind in ("round", "square", "triangle"))]
    pictures += [_plain(rng), _fence(), _skyline(rng), _clouds(rng, cloud_cover)]
    return pictures
