"""What waits to be sent, and what was sent and not acknowledged: in memory for LIVE, see `spooled` for ARCHIVE."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, takewhile
from typing import Protocol

from encoder_service.account import Account, DropReason
from encoder_service.capture import CaptureQueue
from encoder_service.coder import Coder
from encoder_service.frames import CallKey, Coded, Numbered


class Outbox(Protocol):
    """The frames of a node, from the capture queue to their acknowledgement. Belongs to the event loop."""

    @property
    def ready(self) -> bool:
        """Whether `prepare` would give a frame."""

    @property
    def exhausted(self) -> bool:
        """Nothing waits, nothing more will come; frames in flight aside."""

    @property
    def waiting(self) -> int:
        """Frames that have not been sent."""

    async def next_key(self) -> CallKey:
        """What the next call must be opened with."""

    async def first_unacknowledged(self, key: CallKey) -> int:
        """Lowest sequence of that session that is not acknowledged or, when all are, the next one."""

    def epoch_us(self) -> int:
        """A time near the capture time of the next frame."""

    async def resume(self, key: CallKey, next_sequence: int, *, resumed: bool) -> None:
        """A call was opened: settle what was in flight when the one before ended."""

    async def prepare(self, most: int) -> Sequence[Numbered]:
        """The frames that go into the next message, all of one key; they stay until `sent`."""

    def sent(self, frames: Sequence[Numbered]) -> None:
        """These frames, as `prepare` gave them, are in flight."""

    def acknowledged(self, key: CallKey, up_to_sequence: int) -> None:
        """Frames in flight up to a sequence are done with."""

    def give_up(self, frames: Sequence[Numbered]) -> bool:
        """No credit will ever cover these frames, as `prepare` gave them. False: they may not be given up."""

    def disconnected(self) -> None:
        """The call has ended; what is in flight waits for `resume`."""


def alike(frames: Iterable[Numbered], most: int) -> list[Numbered]:
    """The first frames that can go into one call, `most` at most."""
    first = list(islice(frames, most))
    return list(takewhile(lambda frame: frame.key == first[0].key, first))


class LiveOutbox:
    """Fresh before complete: frames are coded when there is credit for them; what waited too long is given up."""

    def __init__(
        self,
        queue: CaptureQueue,
        coder: Coder,
        account: Account,
        *,
        session_id: bytes,
        batch_frames: int,
        max_age_s: float | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_age_s`: None where no frame may be given up for its age."""
        self._queue = queue
        self._coder = coder
        self._account = account
        self._session_id = session_id
        self._batch_frames = batch_frames
        self._max_age_s = max_age_s
        self._clock = clock
        self._next_sequence = 1
        self._unsent: deque[Numbered] = deque()
        self._in_flight: OrderedDict[int, Numbered] = OrderedDict()
        self._reported_drops = 0
        self._carried_drops = 0
        self._last_time_us = coder.epoch_us

    @property
    def ready(self) -> bool:
        """Whether a message can be filled, or will not be filled further."""
        frames = len(self._unsent) + self._queue.frames
        return frames >= self._batch_frames or (frames > 0 and self._queue.ended)

    @property
    def exhausted(self) -> bool:
        """Nothing waits, nothing more will come; frames in flight aside."""
        return self._queue.ended and not self._queue.frames and not self._unsent

    @property
    def waiting(self) -> int:
        """Frames that were captured and not sent."""
        return sum(not self._account.was_sent(frame) for frame in self._unsent) + self._queue.frames

    async def next_key(self) -> CallKey:
        """That of the first frame that waits coded, else of frames coded now."""
        self._give_up_old()  # a decoder may refuse their bitstream for good
        return self._unsent[0].key if self._unsent else CallKey(self._session_id, self._coder.opening)

    async def first_unacknowledged(self, key: CallKey) -> int:
        """Lowest sequence that is not acknowledged, or the next one."""
        return min([*self._in_flight, *(frame.sequence for frame in self._unsent), self._next_sequence])

    def epoch_us(self) -> int:
        """Capture time of the oldest frame at hand, else of the newest one there was."""
        first = next(iter(self._in_flight.values()), None) or (self._unsent[0] if self._unsent else None)
        if first is not None:
            return first.capture_time_us
        return self._queue.next_capture_time_us or self._last_time_us

    async def resume(self, key: CallKey, next_sequence: int, *, resumed: bool) -> None:
        """Frames in flight are acknowledged, sent again while fresh, or given up.

        A decoder without memory may have decoded them, so they are never sent again to it.
        """
        again = []
        acknowledged = 0
        for sequence, frame in self._in_flight.items():
            if not resumed:
                self._carried_drops += frame.dropped_before
                self._account.lose(frame)
            elif sequence < next_sequence:
                acknowledged += 1
            else:
                again.append(frame)
        self._in_flight.clear()
        self._account.acknowledge(self._session_id, next_sequence - 1, acknowledged)
        self._unsent.extendleft(reversed(again))
        self._next_sequence = max(self._next_sequence, next_sequence)

    async def prepare(self, most: int) -> Sequence[Numbered]:
        """Code as many frames as a message takes; frames that waited too long are given up."""
        wanted = min(most, self._batch_frames)
        self._give_up_old()
        while len(self._unsent) < wanted and (captured := self._queue.take()) is not None:
            if self._is_old(captured.at_s):
                self._account.drop("age")
                continue
            coded = await self._coder.code(captured)
            if coded is not None:
                self._unsent.append(self._number(coded, captured.at_s))
        return alike(self._unsent, wanted)

    def sent(self, frames: Sequence[Numbered]) -> None:
        """These frames are in flight."""
        for frame in frames:
            self._in_flight[frame.sequence] = self._unsent.popleft()

    def acknowledged(self, key: CallKey, up_to_sequence: int) -> None:
        """Frames in flight up to a sequence are done with."""
        done = [sequence for sequence in self._in_flight if sequence <= up_to_sequence]
        for sequence in done:
            del self._in_flight[sequence]
        self._account.acknowledge(self._session_id, up_to_sequence, len(done))

    def give_up(self, frames: Sequence[Numbered]) -> bool:
        """Frames that no credit will cover; where none may be lost, False."""
        if self._max_age_s is None:
            return False
        for frame in frames:
            self._unsent.remove(frame)
            self._discard(frame, "too_large")
        return True

    def disconnected(self) -> None:
        """Nothing to do: `resume` settles what is in flight."""

    async def end(self) -> None:
        """The node ends: what was coded and not sent is given up."""
        while self._unsent:
            self._discard(self._unsent.popleft(), "stop")

    def _number(self, coded: Coded, at_s: float) -> Numbered:
        drops = self._account.drops.total()
        frame = Numbered(
            key=CallKey(self._session_id, coded.opening),
            sequence=self._next_sequence,
            capture_time_us=coded.capture_time_us,
            rate_level=coded.rate_level,
            data=coded.data,
            dropped_before=drops - self._reported_drops + self._carried_drops,
            at_s=at_s,
        )
        self._reported_drops, self._carried_drops = drops, 0
        self._next_sequence += 1
        self._last_time_us = frame.capture_time_us
        self._account.number(frame)
        return frame

    def _give_up_old(self) -> None:
        while self._unsent and self._is_old(self._unsent[0].at_s):
            self._discard(self._unsent.popleft(), "age")

    def _discard(self, frame: Numbered, why: DropReason) -> None:
        self._carried_drops += frame.dropped_before
        self._account.discard(frame, why)

    def _is_old(self, at_s: float) -> bool:
        return self._max_age_s is not None and self._clock() - at_s > self._max_age_s
