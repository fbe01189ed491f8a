"""What a source is, and the frames it gives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from ndsc.codec.errors import NdscError
from ndsc.codec.frames import Frame

Clock = Literal["synthetic", "unsynchronized"]
"""`synthetic`: times follow from a frame's number; `unsynchronized`: from this machine's wall clock."""


class SourceError(NdscError):
    """A source that cannot be opened or that stopped giving frames; the message says what to do."""


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One frame as it was captured."""

    image: Frame
    """uint8 RGB [height, width, 3]; every frame of a source has the same size."""
    capture_time_us: int
    """Microseconds since the Unix epoch."""
    name: str
    """File name or frame number, for people."""


class Source(Protocol):
    """Frames of one size in the order they were captured.

    Iterating blocks, so services do it in a thread. One iteration at a time.
    """

    @property
    def clock(self) -> Clock:
        """Where capture times come from."""

    @property
    def width(self) -> int:
        """Pixels."""

    @property
    def height(self) -> int:
        """Pixels."""

    @property
    def epoch_us(self) -> int:
        """No frame was captured before this; microseconds since the Unix epoch."""

    def __iter__(self) -> Iterator[SourceFrame]:
        """Give frames until the source ends or is closed. Raises SourceError when one cannot be had."""

    def close(self) -> None:
        """End the iteration, from any thread; a wait for the next frame ends at once."""


class Timer(Protocol):
    """The clock that sources play by."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch."""

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return after `seconds`, or as soon as `stop` is set."""


class SystemTimer:
    """This machine's wall clock."""

    def now_us(self) -> int:
        """Microseconds since the Unix epoch."""
        return time.time_ns() // 1000

    def wait(self, seconds: float, stop: threading.Event) -> None:
        """Return after `seconds`, or as soon as `stop` is set."""
        stop.wait(seconds)
