"""The rectified stereo pair that drives down the street."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ndsc.scene.atlas import Atlas
from ndsc.scene.render import Canvas, Pinhole, to_bytes
from ndsc.scene.textures import Float
from ndsc.scene.world import World

View = Literal["left", "right"]
VIEWS: tuple[View, View] = ("left", "right")

CAMERA_HEIGHT_M = 1.65
FOCAL_PER_WIDTH = 0.58
"""KITTI's cameras: 721 pixels of focal length for 1242 of width."""
NOISE_GREY_LEVELS = 1.0
MAX_SAMPLES = 64_000_000


@dataclass(frozen=True)
class SceneConfig:
    """One synthetic drive.

    :raises ValueError: when a value makes no picture; the message names it.
    """

    seed: int = 0
    """Chooses the street, its light and its traffic; 0 or more."""
    width: int = 256
    height: int = 128
    """Size of each view in pixels."""
    baseline_m: float = 0.54
    """How far the right camera stands to the right of the left one."""
    focal_px: float | None = None
    """Focal length in pixels; None means 0.58 × width, as in KITTI."""
    supersample: int = 2
    """Each pixel is the mean of this many samples squared, 1 to 4."""
    speed_m_per_s: float = 8.0
    """Speed of the drive; 0 stands still."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, not {self.seed}")
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"width and height must be at least 1 pixel, not {self.width}x{self.height}")
        if not 1 <= self.supersample <= 4:
            raise ValueError(f"supersample must be 1 to 4, not {self.supersample}")
        if self.width * self.height * self.supersample**2 > MAX_SAMPLES:
            raise ValueError(f"{self.width}x{self.height} is too large; take a smaller size or supersample=1")
        if not (math.isfinite(self.baseline_m) and self.baseline_m > 0):
            raise ValueError(f"baseline_m must be a positive length in metres, not {self.baseline_m}")
        if self.focal_px is not None and not (math.isfinite(self.focal_px) and self.focal_px > 0):
            raise ValueError(f"focal_px must be positive, not {self.focal_px}; leave it out for 0.58 x width")
        if not (math.isfinite(self.speed_m_per_s) and self.speed_m_per_s >= 0):
            raise ValueError(f"speed_m_per_s must be 0 or more, not {self.speed_m_per_s}")


@lru_cache(maxsize=4)
def _street(seed: int) -> tuple[World, Atlas]:
    """The world of a seed and its textures, kept because drawing them takes longer than many frames."""
    world = World(seed)
    rng = np.random.default_rng([seed, 100])
    return world, Atlas(rng, world.layout, world.weather.cloud_cover)


class StereoScene:
    """Two cameras side by side on a car in an endless street.

    A frame is a function of (config, time, view) alone: the same on every call, in any order and in any
    process of one machine and numpy version. Both views show one world at the same instant, so what differs
    is parallax and occlusion, a small difference of exposure and each sensor's own noise, as with real
    cameras.
    """

    def __init__(self, config: SceneConfig) -> None:
        self.config = config
        self._world, self._atlas = _street(config.seed)
        rng = np.random.default_rng([config.seed, 102])
        self._sway = rng.uniform(0, 2 * math.pi, 3)
        tint = np.asarray(self._world.light_tint)
        # The right camera meters a little differently and its white balance drifts a little.
        self._gain = {
            "left": tint,
            "right": tint * (1 + rng.uniform(-0.02, 0.02) + rng.uniform(-0.006, 0.006, 3)),
        }

    @property
    def focal_px(self) -> float:
        """Focal length in pixels."""
        return (
            self.config.focal_px if self.config.focal_px is not None else FOCAL_PER_WIDTH * self.config.width
        )

    def horizon_row(self, time_s: float) -> float:
        """Row coordinate of the horizon, from the top edge of the picture; it moves as the car nods.

        The ground seen in the middle of row r (at ``r + 0.5``) is ``focal_px * camera_height_m(time_s) /
        (r + 0.5 - horizon_row)`` metres ahead.
        """
        nod = math.sin(2 * math.pi * math.fmod(time_s, 2.3) / 2.3 + self._sway[0])
        return self.config.height * 0.47 + self.focal_px * 0.003 * nod

    def camera_height_m(self, time_s: float) -> float:
        """Height of both cameras above the road."""
        return CAMERA_HEIGHT_M + 0.012 * math.sin(2 * math.pi * math.fmod(time_s, 1.7) / 1.7 + self._sway[1])

    def render(self, time_s: float, view: View) -> NDArray[np.uint8]:
        """The picture of one camera.

        :param time_s: seconds since the start of the drive; any finite value.
        :return: uint8 [height, width, 3], RGB.
        :raises ValueError: for an unknown view or a time that is not finite.
        """
        if view not in VIEWS:
            raise ValueError(f'view must be "left" or "right", not {view!r}')
        if not math.isfinite(time_s):
            raise ValueError(f"time_s must be finite, not {time_s}")
        config, world = self.config, self._world
        scale = config.supersample
        camera = Pinhole(
            config.width * scale,
            config.height * scale,
            self.focal_px * scale,
            self.horizon_row(time_s) * scale,
        )
        drift = 0.3 * math.sin(2 * math.pi * math.fmod(time_s, 13.0) / 13.0 + self._sway[2])
        eye_x = world.lane_middle_m + drift + (config.baseline_m if view == "right" else 0.0)
        pieces = world.pieces(config.speed_m_per_s * time_s, time_s)
        pieces[:, 0] -= eye_x
        pieces[:, 1] -= self.camera_height_m(time_s)
        picture = Canvas(camera, self._atlas, world.weather, world.sun, pieces).shade()
        return to_bytes(picture, scale, self._gain[view], self._noise(time_s, view))

    def pair(self, time_s: float) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The left and the right picture of one instant; see :meth:`render`."""
        return self.render(time_s, "left"), self.render(time_s, "right")

    def _noise(self, time_s: float, view: View) -> Float:
        # Adding 0.0 turns -0.0 into 0.0, which are one instant with two bit patterns.
        instant = int(np.float64(time_s + 0.0).view(np.uint64))
        rng = np.random.default_rng([self.config.seed, 101, instant, VIEWS.index(view)])
        noise = rng.standard_normal((3, self.config.height, self.config.width), dtype=np.float32)
        noise *= np.float32(NOISE_GREY_LEVELS)
        return noise
