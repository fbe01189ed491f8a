"""The built-in synthetic stereo drive as a source."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from ndsc.codec.frames import Frame
from ndsc.scene import SceneConfig, StereoScene, View
from ndsc.sources.playback import Timeline


class SyntheticReader:
    """One view of the drive, without end.

    The scene's time is the capture time itself, so two sources with one seed show the same instant at the
    same capture time, whenever each was started.
    """

    def __init__(self, config: SceneConfig, view: View, timeline: Timeline) -> None:
        self._scene = StereoScene(config)
        self._view = view
        self._timeline = timeline
        self.width = config.width
        self.height = config.height

    def pictures(self) -> Iterator[tuple[str, Frame]]:
        """(view and number, uint8 [height, width, 3])."""
        for index in count():
            time_s = self._timeline.capture_time_us(index) / 1_000_000
            yield f"{self._view}-{index:06d}", self._scene.render(time_s, self._view)
