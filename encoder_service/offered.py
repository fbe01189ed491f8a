"""The newest source frames, for people who compare them with what was decoded."""

from __future__ import annotations

from collections import OrderedDict

from ndsc.sources import SourceFrame


class OfferedSources:
    """Holds the last few frames that were coded, by capture time. Belongs to the event loop."""

    def __init__(self, capacity: int) -> None:
        """`capacity` in frames; 0 holds none."""
        self._capacity = capacity
        self._frames: OrderedDict[int, SourceFrame] = OrderedDict()

    def put(self, frame: SourceFrame) -> None:
        """Hold a frame and let the oldest go."""
        if not self._capacity:
            return
        self._frames[frame.capture_time_us] = frame
        self._frames.move_to_end(frame.capture_time_us)
        if len(self._frames) > self._capacity:
            self._frames.popitem(last=False)

    def get(self, capture_time_us: int | None) -> SourceFrame | None:
        """The frame of a capture time, or the newest; None when it is not held."""
        if capture_time_us is None:
            return next(reversed(self._frames.values()), None)
        return self._frames.get(capture_time_us)
