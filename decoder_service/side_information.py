"""Held side information, and which of it a frame is decoded with."""

from __future__ import annotations

import asyncio
import bisect
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from ndsc.codec.frames import Frame


@dataclass(frozen=True, eq=False)
class SideFrame:
    """One side-information frame y."""

    image: Frame
    """uint8 RGB [height, width, 3]."""
    capture_time_us: int


@dataclass(frozen=True, eq=False)
class Paired:
    """The frame that serves, and its stream."""

    stream: str
    frame: SideFrame


@dataclass(frozen=True)
class Pairing:
    """What a search for side information came to."""

    paired: Paired | None
    other_size: tuple[str, int, int] | None = None
    """(stream, width, height) of a frame that was near enough in time but not of the size asked for."""


StreamName = tuple[str, str]
"""(rig, camera)."""


class SideInformationStore:
    """The newest side information of each stream, bounded in frames a stream and in bytes in all.

    Belongs to the event loop. What arrived first goes first, whatever its capture time: clocks of two cameras
    need not agree.
    """

    def __init__(self, *, capacity_frames: int, capacity_bytes: int) -> None:
        self._capacity_frames = capacity_frames
        self._capacity_bytes = capacity_bytes
        self._held_bytes = 0
        self._numbers = count()
        self._frames: OrderedDict[int, tuple[StreamName, SideFrame]] = OrderedDict()
        self._arrivals: dict[StreamName, OrderedDict[int, None]] = {}
        # (capture time, number) of each stream's held frames, in order.
        self._times: dict[StreamName, list[tuple[int, int]]] = {}
        # Streams that a frame waited for in vain and that have brought nothing since.
        self._stalled: set[StreamName] = set()
        self._changed = asyncio.Event()

    @property
    def held_bytes(self) -> int:
        """Bytes of all held images."""
        return self._held_bytes

    @property
    def frames(self) -> int:
        """Frames held of all streams."""
        return len(self._frames)

    def held_frames(self, rig: str, camera: str) -> int:
        """Frames held of one stream."""
        return len(self._times.get((rig, camera), ()))

    def put(self, rig: str, camera: str, frame: SideFrame) -> None:
        """Hold a frame, letting go of as many of the oldest as that takes."""
        stream = (rig, camera)
        number = next(self._numbers)
        self._frames[number] = (stream, frame)
        self._arrivals.setdefault(stream, OrderedDict())[number] = None
        bisect.insort(self._times.setdefault(stream, []), (frame.capture_time_us, number))
        self._held_bytes += frame.image.nbytes
        self._stalled.discard(stream)
        if len(self._times[stream]) > self._capacity_frames:
            self._let_go(next(iter(self._arrivals[stream])))
        while self._held_bytes > self._capacity_bytes:
            self._let_go(next(iter(self._frames)))
        self._changed.set()
        self._changed = asyncio.Event()

    def forget(self, rig: str, camera: str) -> None:
        """Let go of all frames of a stream: a new session has its own clock and its own pictures."""
        for number in list(self._arrivals.get((rig, camera), ())):
            self._let_go(number)

    def _let_go(self, number: int) -> None:
        stream, frame = self._frames.pop(number)
        del self._arrivals[stream][number]
        self._times[stream].remove((frame.capture_time_us, number))
        self._held_bytes -= frame.image.nbytes
        if not self._times[stream]:
            del self._times[stream], self._arrivals[stream]

    def nearest(self, rig: str, camera: str, capture_time_us: int, tolerance_us: int) -> SideFrame | None:
        """The frame nearest in time, within the tolerance; of two equally near, the earlier.

        Of frames with one capture time, the one that arrived last.
        """
        times = self._times.get((rig, camera))
        if not times:
            return None
        after = bisect.bisect_left(times, (capture_time_us, -1))
        candidates = times[max(0, after - 1) : after + 1]
        time_us, _ = min(candidates, key=lambda held: (abs(held[0] - capture_time_us), held[0]))
        if abs(time_us - capture_time_us) > tolerance_us:
            return None
        _, number = times[bisect.bisect_left(times, (time_us + 1, -1)) - 1]
        return self._frames[number][1]

    def newest_time_us(self, rig: str, camera: str) -> int | None:
        """Capture time of the frame that arrived last; not the largest one: a clock may have stepped back."""
        arrivals = self._arrivals.get((rig, camera))
        return self._frames[next(reversed(arrivals))][1].capture_time_us if arrivals else None

    def changed(self) -> asyncio.Event:
        """An event that the next `put` sets."""
        return self._changed

    async def pair(
        self,
        rig: str,
        streams: Sequence[str],
        capture_time_us: int,
        *,
        size: tuple[int, int],
        tolerance_us: int,
        deadline: float,
    ) -> Pairing:
        """The nearest frame of `size` (width, height) within the tolerance, of the best stream that has one.

        `streams` come best first. Waits for a better stream's frame until `deadline` (event loop time), but
        not once a frame at or past the wanted time is held: streams are in order, so nothing nearer can
        follow. A stream that was waited for in vain is waited for again only when it has brought something.
        """
        while True:
            changed = self._changed
            expired = asyncio.get_running_loop().time() >= deadline
            pairing, awaited = self._look(
                rig, streams, capture_time_us, size=size, tolerance_us=tolerance_us, expired=expired
            )
            if awaited is None:
                return pairing
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                self._stalled.add((rig, awaited))

    def _look(
        self,
        rig: str,
        streams: Sequence[str],
        capture_time_us: int,
        *,
        size: tuple[int, int],
        tolerance_us: int,
        expired: bool,
    ) -> tuple[Pairing, str | None]:
        """What there is now, and the stream that is worth a wait."""
        other_size: tuple[str, int, int] | None = None
        for stream in streams:
            name = (rig, stream)
            newest_us = self.newest_time_us(rig, stream)
            settled = newest_us is not None and newest_us >= capture_time_us
            if not (settled or expired or name in self._stalled):
                return Pairing(None), stream
            frame = self.nearest(rig, stream, capture_time_us, tolerance_us)
            if frame is None:
                continue
            height, width = frame.image.shape[:2]
            if (width, height) == size:
                return Pairing(Paired(stream, frame)), None
            other_size = other_size or (stream, width, height)
        return Pairing(None, other_size), None
