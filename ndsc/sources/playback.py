"""Plays numbered pictures at epoch + i / fps: what folders, video files and the synthetic drive share."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Protocol

from ndsc.codec.frames import Frame
from ndsc.sources.source import Clock, SourceFrame, Timer


@dataclass(frozen=True)
class Timeline:
    """When each picture was captured."""

    epoch_us: int
    """Capture time of picture 0, in microseconds since the Unix epoch."""
    fps: Fraction
    """Pictures a second."""

    def capture_time_us(self, index: int) -> int:
        """Capture time of picture `index`, in microseconds since the Unix epoch."""
        return self.epoch_us + round(index * 1_000_000 / self.fps)


class Reader(Protocol):
    """Pictures in order, as fast as they can be had."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    def pictures(self) -> Iterator[tuple[str, Frame]]:
        """(name, uint8 [height, width, 3]) from the first to the last; each call starts anew."""


class PlaybackSource:
    """A source whose capture times follow from frame numbers.

    In real time, frame i comes not before its capture time. An epoch in the past shifts that: frame 0 comes
    at once and the others keep their distances. Pictures that take longer than 1 / fps to read come late;
    none is left out.
    """

    def __init__(
        self,
        reader: Reader,
        timeline: Timeline,
        timer: Timer,
        *,
        loop: bool = False,
        realtime: bool = True,
        limit: int | None = None,
    ) -> None:
        self._reader = reader
        self._timeline = timeline
        self._timer = timer
        self._loop = loop
        self._realtime = realtime
        self._limit = limit
        self._stop = threading.Event()

    @property
    def clock(self) -> Clock:
        """Always `synthetic`."""
        return "synthetic"

    @property
    def width(self) -> int:
        """Pixels."""
        return self._reader.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self._reader.height

    @property
    def epoch_us(self) -> int:
        """Capture time of frame 0, in microseconds since the Unix epoch."""
        return self._timeline.epoch_us

    def __iter__(self) -> Iterator[SourceFrame]:
        shift_us = self._shift_us()
        with closing(self._numbered()) as pictures:
            for index, name, image in islice(pictures, self._limit):
                capture_time_us = self._timeline.capture_time_us(index)
                if self._realtime:
                    early_us = capture_time_us + shift_us - self._timer.now_us()
                    if early_us > 0:
                        self._timer.wait(early_us / 1_000_000, self._stop)
                if self._stop.is_set():
                    return
                yield SourceFrame(image, capture_time_us, name)

    def _shift_us(self) -> int:
        return max(0, self._timer.now_us() - self._timeline.epoch_us)

    def _numbered(self) -> Generator[tuple[int, str, Frame]]:
        index = 0
        while not self._stop.is_set():
            for name, image in self._reader.pictures():
                yield index, name, image
                index += 1
            if not self._loop:
                return

    def close(self) -> None:
        """End the iteration, from any thread."""
        self._stop.set()
