"""Cameras on this machine (Video4Linux) and RTSP addresses, read by PyAV (FFmpeg)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import av

from ndsc.codec.frames import Frame
from ndsc.sources.source import Clock, SourceError, SourceFrame, Timer
from ndsc.sources.video import to_rgb

T = TypeVar("T")

_MAX_DAMAGED_PACKETS: Final = 100
"""Damaged packets in a row that are passed over: a camera often starts with a few, and networks lose some."""


@dataclass(frozen=True)
class LiveAddress:
    """What FFmpeg opens, and what to call it in messages."""

    url: str
    label: str
    """The address without user name and password."""
    advice: str
    """What to check when it does not answer."""
    timeout_s: float
    """Longest wait for the source to answer, and for its next frame."""
    format: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


class LiveSource:
    """Frames as they arrive; the capture time is the arrival by this machine's wall clock.

    The consumer must keep up: what waits in the driver or the network meanwhile is older than its capture
    time says. Opening waits for a first frame, which gives the size and is not part of the iteration. Raises
    SourceError when the source does not answer or stops sending.
    """

    def __init__(self, address: LiveAddress, timer: Timer, *, limit: int | None = None) -> None:
        self._address = address
        self._timer = timer
        self._limit = limit
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._iterating = False
        self._container = self._guard(self._open)
        try:
            self._frames = self._decode()
            self.height, self.width = next(self._frames).shape[:2]
        except BaseException:
            self._container.close()
            raise
        self.epoch_us = timer.now_us()
        """When the source was opened, in microseconds since the Unix epoch."""

    @property
    def clock(self) -> Clock:
        """Always `unsynchronized`: nothing here can know what disciplines this machine's clock."""
        return "unsynchronized"

    def __iter__(self) -> Iterator[SourceFrame]:
        with self._lock:
            if self._stop.is_set():
                return
            self._iterating = True
        try:
            count = 0
            while count != self._limit:
                image = next(self._frames)
                capture_time_us = max(self._timer.now_us(), self.epoch_us)
                if self._stop.is_set():
                    return
                if image.shape[:2] != (self.height, self.width):
                    raise SourceError(f"{self._address.label}: the picture size changed; start again")
                yield SourceFrame(image, capture_time_us, f"{self._address.label}#{count}")
                count += 1
        finally:
            self._container.close()

    def close(self) -> None:
        """End the iteration, from any thread, at the latest after the time-out for a frame."""
        with self._lock:
            self._stop.set()
            # FFmpeg may be at work in the iterating thread, which then closes the container itself.
            if not self._iterating:
                self._container.close()

    def _open(self) -> av.container.InputContainer:
        address = self._address
        container = av.open(
            address.url,
            format=address.format,
            options=dict(address.options),
            timeout=(address.timeout_s, address.timeout_s),
        )
        if not container.streams.video:
            container.close()
            raise self._error("sends no video")
        return container

    def _decode(self) -> Iterator[Frame]:
        packets = self._container.demux(video=0)
        damaged = 0
        while True:
            packet = self._guard(lambda: next(packets, None))
            if packet is None or packet.size == 0:
                raise self._error("stopped sending")
            try:
                frames = packet.decode()
                damaged = 0
            except av.FFmpegError as error:
                damaged += 1
                if damaged > _MAX_DAMAGED_PACKETS:
                    raise self._error("sends only damaged frames") from error
                continue
            for frame in frames:
                yield self._guard(partial(to_rgb, frame, self._address.label))

    def _guard(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, (av.ExitError, TimeoutError)):
                reason = f"no frame within {self._address.timeout_s:g} s"
            elif isinstance(error, BlockingIOError) or getattr(error, "errno", None) == 16:
                reason = "in use by another program"
            elif isinstance(error, av.InvalidDataError):
                reason = "does not answer as a video source"
            else:
                reason = str(getattr(error, "strerror", None) or error)
            raise self._error(reason) from error

    def _error(self, reason: str) -> SourceError:
        return SourceError(f"{self._address.label}: {reason}; {self._address.advice}")
