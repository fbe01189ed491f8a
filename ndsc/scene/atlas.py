"""All textures of one scene with their prefiltered copies, in one flat table.

The atlas keeps a *ripmap* of every texture: a copy for each pair (halvings across, halvings down). A wall
seen at a grazing angle then reads a copy blurred along one axis only, so near and far surfaces stay sharp
without shimmering.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ndsc.scene.textures import RoadLayout, draw_all


class Material(IntEnum):
    """Names of the atlas's textures, in the order in which they are stored."""

    ROAD = 0
    PAVEMENT = 1
    GRASS = 2
    BRICK = 3
    PLASTER = 4
    OFFICE = 5
    TIMBER = 6
    SHOP = 7
    ROOF = 8
    CROWN_ROUND = 9
    CROWN_OPEN = 10
    CONIFER = 11
    BARK = 12
    HEDGE = 13
    CAR_SIDE_HATCH = 14
    CAR_SIDE_SALOON = 15
    CAR_SIDE_VAN = 16
    CAR_REAR = 17
    CAR_FRONT = 18
    PAINT = 19
    GLASS = 20
    STRIPES = 21
    SIGN_ROUND = 22
    SIGN_SQUARE = 23
    SIGN_TRIANGLE = 24
    PLAIN = 25
    FENCE = 26
    SKYLINE = 27
    CLOUDS = 28


class Atlas:
    """Every texture of one scene with all of its prefiltered copies, as packed RGBA bytes.

    ``texels`` is uint32 [n], red in the lowest byte, then green, blue and alpha; ``opaque`` is bool [n],
    alpha of one half or more. The copy of texture m that is halved i times across and j times down starts at
    ``offsets[m, i, j]`` and has ``1 << (log2_width[m] - i)`` columns; its first row is the bottom of the
    picture, so texture coordinates grow right and up.
    """

    def __init__(self, rng: np.random.Generator, layout: RoadLayout, cloud_cover: float) -> None:
        pictures = draw_all(rng, layout, cloud_cover)
        self.log2_width = np.asarray([p.shape[1].bit_length() - 1 for p in pictures], np.int32)
        self.log2_height = np.asarray([p.shape[0].bit_length() - 1 for p in pictures], np.int32)
        levels = int(max(self.log2_width.max(), self.log2_height.max())) + 1
        self.offsets = np.zeros((len(pictures), levels, levels), np.int32)
        packed: list[NDArray[np.uint8]] = []
        end = 0
        for index, picture in enumerate(pictures):
            across = np.clip(picture[::-1], 0, 1) * np.float32(255)
            for i in range(int(self.log2_width[index]) + 1):
                down = across
                for j in range(int(self.log2_height[index]) + 1):
                    self.offsets[index, i, j] = end
                    packed.append((down + np.float32(0.5)).astype(np.uint8).reshape(-1, 4))
                    end += packed[-1].shape[0]
                    if down.shape[0] > 1:
                        down = (down[0::2] + down[1::2]) * np.float32(0.5)
                if across.shape[1] > 1:
                    across = (across[:, 0::2] + across[:, 1::2]) * np.float32(0.5)
        red, green, blue, alpha = np.concatenate(packed).T.astype(np.uint32)
        self.texels: NDArray[np.uint32] = red | green << 8 | blue << 16 | alpha << 24
        self.opaque: NDArray[np.bool_] = alpha >= 128
