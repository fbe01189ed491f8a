"""The built-in synthetic stereo drive as a source."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator
from itertools import count

from ndsc.codec.frames import Frame
from ndsc.scene import SceneConfig, StereoScene, View
from ndsc.sources.playback import PlaybackSource, Timeline
from ndsc.sources.source import Timer


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
        return map(self.picture, count())

    def picture(self, index: int) -> tuple[str, Frame]:
        """(view and number, uint8 [height, width, 3])."""
        time_s = self._timeline.capture_time_us(index) / 1_000_000
        return f"{self._view}-{index:06d}", self._scene.render(time_s, self._view)


class DriveSource(PlaybackSource):
    """The drive in real time, as a camera sees it: what was missed, before the first frame or later, is left out.

    So two nodes show the same instants, though one of them is slow to start or to draw.
    """

    def __init__(
        self, reader: SyntheticReader, timeline: Timeline, timer: Timer, *, limit: int | None = None
    ) -> None:
        super().__init__(reader, timeline, timer, limit=limit)
        self._drive = reader

    def _shift_us(self) -> int:
        return 0

    def _numbered(self) -> Generator[tuple[int, str, Frame]]:
        index = 0
        while not self._stop.is_set():
            passed_us = self._timer.now_us() - self._timeline.epoch_us
            index = max(index, math.ceil(passed_us * self._timeline.fps / 1_000_000))
            yield index, *self._drive.picture(index)
            index += 1
