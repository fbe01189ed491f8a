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
        self.timeline = timeline
        self.width = config.width
        self.height = config.height

    def pictures(self) -> Iterator[tuple[str, Frame]]:
        """(view and number, uint8 [height, width, 3])."""
        return map(self.picture, count())

    def picture(self, index: int) -> tuple[str, Frame]:
        """(view and number, uint8 [height, width, 3])."""
        time_s = self.timeline.capture_time_us(index) / 1_000_000
        return f"{self._view}-{index:06d}", self._scene.render(time_s, self._view)


class DriveSource(PlaybackSource):
    """The drive in real time, as a camera sees it: what was missed, before the first frame or later, is left out.

    Its frames lie at multiples of 1 / fps since the Unix epoch. So two nodes of one rate show the same instants,
    though one of them is slow to start or to draw.
    """

    def __init__(self, drive: SyntheticReader, timer: Timer, *, limit: int | None = None) -> None:
        """`drive` counts its pictures from 1970."""
        super().__init__(drive, drive.timeline, timer, limit=limit)
        self._drive = drive
        self._opened_us = timer.now_us()

    @property
    def epoch_us(self) -> int:
        """When the source was opened, in microseconds since the Unix epoch."""
        return self._opened_us

    def _shift_us(self) -> int:
        return 0

    def _numbered(self) -> Generator[tuple[int, str, Frame]]:
        index = 0
        while not self._stop.is_set():
            index = max(index, math.ceil(self._timer.now_us() * self._timeline.fps / 1_000_000))
            yield index, *self._drive.picture(index)
            index += 1
