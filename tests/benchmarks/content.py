"""What the benchmarks stream: made once, before anything is timed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from ndsc.codec.bitstream import CompressedFrame
from ndsc.codec.bundle import Bundle, write_bundle
from ndsc.codec.codec import FrameEncoder
from ndsc.codec.frames import Frame, encode_image
from ndsc.scene import SceneConfig, StereoScene, View
from ndsc.service.images import to_image
from ndsc.v1 import types_pb2
from ndsc.v1.types_pb2 import Image
from tests import tiny_bundle

PICTURES: Final = 8
"""Different frames; cameras repeat them."""
INTERVAL_S: Final = 0.5
"""Scene time from one to the next."""


def null_bundle(folder: Path) -> Bundle:
    """A bundle whose networks do next to nothing: what is left is the service's own work."""
    return write_bundle(folder / "null", **tiny_bundle.parts())


def noise(width: int, height: int) -> list[Frame]:
    """Pictures for the null bundle."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (height, width, 3), np.uint8) for _ in range(PICTURES)]


def drive(view: View, width: int = 256, height: int = 128, pictures: int = PICTURES) -> list[Frame]:
    """One view of the synthetic drive."""
    scene = StereoScene(SceneConfig(width=width, height=height))
    return [scene.render(n * INTERVAL_S, view) for n in range(pictures)]


def compress(bundle: Bundle, frames: Sequence[Frame]) -> list[CompressedFrame]:
    """At the bundle's default level."""
    encoder = FrameEncoder(bundle)
    return [encoder.encode(frame) for frame in frames]


def as_side_information(frames: Sequence[Frame]) -> list[Image]:
    """As nodes send it by default."""
    return [to_image(frame, types_pb2.IMAGE_FORMAT_JPEG) for frame in frames]


def write_folder(folder: Path, frames: Sequence[Frame]) -> Path:
    """A folder of images, for a node to play."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames):
        (folder / f"{number:04}.jpg").write_bytes(encode_image(frame, "jpeg"))
    return folder
