"""What sampled frames must have come to: the same scene, codec and side information, without any service."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import google_crc32c

from ndsc.codec.bundle import Bundle
from ndsc.codec.codec import FrameDecoder, FrameEncoder
from ndsc.codec.frames import Frame
from ndsc.scene import SceneConfig, StereoScene, View
from tests.robustness.conditions import Reference
from tests.robustness.history import Event, History, Key

WIDTH, HEIGHT = 64, 48
"""Of most runs."""
SAMPLES = 6
"""Frames of each camera that are coded and decoded again."""


class Scene:
    """Frames of the synthetic drive, as nodes capture them; the same seed shows the same street."""

    def __init__(self, seed: int, width: int, height: int) -> None:
        self._scene = StereoScene(SceneConfig(seed=seed, width=width, height=height))

    def frame(self, capture_time_us: int, view: View) -> Frame:
        """uint8 [height, width, 3]."""
        return self._scene.render(capture_time_us / 1_000_000, view)


def references_of(history: History, bundles: Iterable[Bundle], scene: Scene) -> dict[Key, Reference]:
    """Code and decode a sample of the decoded frames of every camera again. Takes a while."""
    codecs = [(FrameEncoder(bundle), FrameDecoder(bundle)) for bundle in bundles]
    return {
        decoded.key: _reference(decoded, scene, codecs)
        for camera in sorted(history.cameras())
        for decoded in _sample(history.of("decoder", "decoded", camera=camera))
    }


def _sample(events: Sequence[Event]) -> Sequence[Event]:
    return events[:: max(1, len(events) // SAMPLES)]


def _reference(
    decoded: Event, scene: Scene, codecs: Sequence[tuple[FrameEncoder, FrameDecoder]]
) -> Reference:
    x = scene.frame(decoded["capture_time_us"], "left")
    paired = decoded["outcome"] == "paired"
    y = scene.frame(decoded["y_time_us"], "right") if paired else None
    references = []
    for encoder, decoder in codecs:
        compressed = encoder.encode(x, decoded["level"])
        image = decoder.decode(compressed, y)
        references.append(
            Reference(google_crc32c.value(compressed.payload), google_crc32c.value(image.tobytes()))
        )
    # A run that changes bundles decodes with the one that made the payload.
    return next((one for one in references if one.payload_crc == decoded["crc"]), references[0])
