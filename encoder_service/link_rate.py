"""What a link and the decoder behind it carry, found out from acknowledgements alone.

When frames come faster than they are carried, a queue builds up somewhere on the way, and acknowledgements take
longer than the fastest of late. What is acknowledged in a second is then what the way carries. The rate falls well
below that until the queue is gone, returns to it, stays near it for a while, and only then goes beyond, faster and
faster.

A slow decoder and a slow link look the same from here: fewer bytes for both.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

QUEUE_S: Final = 0.35
"""Acknowledgements that take so much longer than the fastest mean a queue. By default a decoder waits less than
that for side information that does not come."""
SHORT_QUEUE_S: Final = 0.12
"""Below this there is none; in between the rate stays as it is."""
BACK_OFF: Final = 0.65
"""Share of the carried rate that is sent while there is a queue."""
GROWTH_PER_S3: Final = 0.3
"""Past the carried rate, the rate grows by this share of it times the cube of the seconds."""
UNPROVED: Final = 3.0
"""The rate grows no further than to this multiple of what is carried: more would not be used either."""
CARRIED_WINDOW_S: Final = 1.0
CARRIED_FRAMES: Final = 4
"""The carried rate is a mean over this time or so many frames, whichever is longer."""
FASTEST_WINDOW_S: Final = 10.0
"""For how long the fastest acknowledgement is remembered: the way may have become a longer one."""
FIRST_BYTES_PER_S: Final = 8_000.0
"""The rate before anything is known; it doubles every half second until the first queue."""
LEAST_BYTES_PER_S: Final = 50.0
"""The rate never falls below this, so that there is always something to learn from."""

_RETURN_S: Final = ((1 - BACK_OFF) / GROWTH_PER_S3) ** (1 / 3)
_FIRST_GROWTH_S: Final = 10.0


class LinkRate:
    """Estimate for one camera. Times are seconds of any clock that does not go back."""

    def __init__(self) -> None:
        self._in_flight: deque[tuple[float, int]] = deque()
        """(time sent, message bytes)."""
        self._carried: deque[tuple[float, int]] = deque()
        """(time acknowledged, message bytes), the latest of them."""
        self._delays_s: deque[tuple[float, float]] = deque()
        """(time acknowledged, time it took)."""
        self._carried_bytes_per_s: float | None = None
        """As measured when there last was a queue; None: there was none yet."""
        self._growing_s = 0.0
        """Time without a queue since."""
        self._updated_s: float | None = None
        self.bytes_per_s = FIRST_BYTES_PER_S
        """What should be sent now, in bytes of Frame messages."""

    def sent(self, now_s: float, message_bytes: int) -> None:
        """A frame is on its way."""
        self._in_flight.append((now_s, message_bytes))

    def acknowledged(self, now_s: float, frames: int) -> None:
        """So many frames, the oldest in flight, are done with."""
        for _ in range(min(frames, len(self._in_flight))):
            sent_s, message_bytes = self._in_flight.popleft()
            self._carried.append((now_s, message_bytes))
            self._delays_s.append((now_s, now_s - sent_s))
        self._forget(now_s)

    def disconnected(self) -> None:
        """What is in flight will not be acknowledged any more, and the next way may be another one."""
        self._in_flight.clear()
        self._carried.clear()
        self._delays_s.clear()

    def update(self, now_s: float, *, behind: bool) -> None:
        """Bring `bytes_per_s` up to date. `behind`: frames wait on the node, so all that can be carried is."""
        elapsed_s = 0.0 if self._updated_s is None else now_s - self._updated_s
        self._updated_s = now_s
        self._forget(now_s)
        queue_s = self._queue_s(now_s)
        carried_bytes_per_s = self._measure(now_s)
        if behind or queue_s > QUEUE_S:
            self._carried_bytes_per_s = carried_bytes_per_s
            self._growing_s = 0.0
        else:
            if self._carried_bytes_per_s is not None and self._growing_s < _RETURN_S:
                # What a moment's stall held back comes all at once after it.
                self._carried_bytes_per_s = max(self._carried_bytes_per_s, carried_bytes_per_s)
            if queue_s < SHORT_QUEUE_S and self.bytes_per_s <= UNPROVED * carried_bytes_per_s:
                self._growing_s += elapsed_s
        self.bytes_per_s = max(LEAST_BYTES_PER_S, self._grown())

    def _forget(self, now_s: float) -> None:
        while len(self._carried) > CARRIED_FRAMES and self._carried[0][0] < now_s - CARRIED_WINDOW_S:
            self._carried.popleft()
        while len(self._delays_s) > 1 and self._delays_s[0][0] < now_s - FASTEST_WINDOW_S:
            self._delays_s.popleft()

    def _queue_s(self, now_s: float) -> float:
        """How much longer than the fastest of late the slowest takes: the last one that came, or one in flight."""
        if not self._delays_s:
            return 0.0
        in_flight_s = now_s - self._in_flight[0][0] if self._in_flight else 0.0
        return max(in_flight_s, self._delays_s[-1][1]) - min(delay_s for _, delay_s in self._delays_s)

    def _measure(self, now_s: float) -> float:
        """Bytes carried per second of late; as before where too few acknowledgements came."""
        if len(self._carried) < 2 or now_s <= (first_s := self._carried[0][0]):
            return self._carried_bytes_per_s or self.bytes_per_s
        return sum(size for at_s, size in self._carried if at_s > first_s) / (now_s - first_s)

    def _grown(self) -> float:
        if self._carried_bytes_per_s is None:
            return FIRST_BYTES_PER_S * math.pow(4, min(self._growing_s, _FIRST_GROWTH_S))
        return self._carried_bytes_per_s * (1 + GROWTH_PER_S3 * (self._growing_s - _RETURN_S) ** 3)
