"""Pictures whose indices go into the reference set: 128 × 256 pixels, and those of a 47 × 156 grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np

from ndsc.codec.frames import Frame, read_image
from ndsc.evaluate import kitti128, list_pairs
from ndsc.evaluate.protocols import KITTI128_HEIGHT, KITTI128_WIDTH
from ndsc.scene import SceneConfig, StereoScene, View
from tests.exactness.reference import LARGE

LARGE_HEIGHT, LARGE_WIDTH = 375, 1242
_VIEWS: Final[tuple[View, View]] = ("left", "right")
_FRAMES_PER_SCENE: Final = 64
_SECONDS_APART: Final = 0.9


def synthetic(*, large: bool = False) -> Iterator[Frame]:
    """Frames of synthetic drives, every one different, without end."""
    size = {"width": LARGE_WIDTH, "height": LARGE_HEIGHT, "supersample": 1} if large else {}
    for seed in count():
        scene = StereoScene(SceneConfig(seed=seed, **size))
        for n in range(_FRAMES_PER_SCENE):
            yield scene.render(n * _SECONDS_APART, _VIEWS[n % 2])


def small_from_pairs(directories: Sequence[Path]) -> Iterator[Frame]:
    """Both views of every pair through the `kitti128` protocol, then crops of its size, without end.

    Raises PairsError, ImageError, and GeometryError for frames smaller than the protocol's crop.
    """
    paths = _paths(directories)
    for path in paths:
        yield kitti128(read_image(path))
    rng = np.random.default_rng(0)
    while True:
        for path in paths:
            frame = read_image(path)
            top = rng.integers(frame.shape[0] - KITTI128_HEIGHT + 1)
            left = rng.integers(frame.shape[1] - KITTI128_WIDTH + 1)
            yield frame[top : top + KITTI128_HEIGHT, left : left + KITTI128_WIDTH]


def large_from_pairs(directories: Sequence[Path], stride: int) -> Iterator[Frame]:
    """Both views of every pair as they are, where they make a 47 × 156 grid; then the same mirrored.

    Raises PairsError and ImageError.
    """
    paths = _paths(directories)
    for step in (1, -1):
        for path in paths:
            frame = read_image(path)[:, ::step]
            if (-(-frame.shape[0] // stride), -(-frame.shape[1] // stride)) == (LARGE.height, LARGE.width):
                yield np.ascontiguousarray(frame)


def _paths(directories: Sequence[Path]) -> list[Path]:
    pairs = [pair for directory in directories for pair in list_pairs(directory)]
    return [path for pair in pairs for path in (pair.left, pair.right)]
