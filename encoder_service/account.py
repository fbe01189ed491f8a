"""What became of a node's frames: counted, written to the history, and shown as metrics, in one place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import google_crc32c

from encoder_service.frames import Captured, Numbered
from encoder_service.metrics import NodeMetrics
from ndsc.service.history import History

DropReason = Literal["queue", "age", "rate", "too_large", "spool_full", "stop"]
"""Why a frame was given up: the queue was full; it had waited too long for the link; the rate to hold; no credit
will cover it; the spool is full; the node was told to stop."""


class Account:
    """Captured = sent + dropped + waiting, and sent = acknowledged + unknown + in flight.

    Of this run of the node: a spool's frames of earlier runs are counted once they are sent, or acknowledged.
    """

    def __init__(self, history: History, metrics: NodeMetrics) -> None:
        self._history = history
        self._metrics = metrics
        self._session: Counter[bytes] = Counter()
        self.captured = 0
        self.sent = 0
        """Each frame once; not those that were given up after all."""
        self.acked = 0
        self.failed = 0
        """Of the acknowledged ones, those that the decoder reported as errors."""
        self.unknown = 0
        """In flight when the decoder lost its memory: it may have decoded them."""
        self.drops: Counter[DropReason] = Counter()
        self.payload_bytes = 0
        self.message_bytes = 0
        self.coded = 0
        self.coding_s = 0.0
        self.rate_level = 0
        """Of the newest coded frame."""

    @property
    def dropped(self) -> int:
        """Frames given up: never sent, or certainly not decoded."""
        return self.drops.total()

    @property
    def in_flight(self) -> int:
        """Frames sent of which nothing is known yet; after a lost call some wait to be sent again."""
        return self.sent - self.acked - self.unknown

    def was_sent(self, frame: Numbered) -> bool:
        """Whether a frame was sent in this run."""
        return frame.sequence <= self._session[frame.key.session_id]

    def capture(self, captured: Captured) -> None:
        """A frame was captured."""
        self.captured += 1
        self._metrics.captured()
        self._history.record(
            "captured", capture=captured.ordinal, capture_time_us=captured.frame.capture_time_us
        )

    def drop(self, why: DropReason, count: int = 1) -> None:
        """Frames without a number were given up."""
        if count:
            self.drops[why] += count
            self._metrics.dropped(why, count)
            self._history.record("dropped", count=count, why=why)

    def code(self, seconds: float) -> None:
        """A frame was coded, in so much time."""
        self.coded += 1
        self.coding_s += seconds
        self._metrics.coded(seconds)

    def number(self, frame: Numbered) -> None:
        """A coded frame got its place in the session (and is in the spool, if there is one)."""
        self.rate_level = frame.rate_level
        self._record(
            "coded",
            frame,
            capture_time_us=frame.capture_time_us,
            rate_level=frame.rate_level,
            bytes=len(frame.data),
            crc=google_crc32c.value(frame.data) if self._history.enabled else None,
        )

    def send(self, frames: Sequence[Numbered], message_bytes: int) -> None:
        """Frames were sent in one message; some may have been before."""
        self.message_bytes += message_bytes
        for frame in frames:
            again = self.was_sent(frame)
            self._metrics.sent(len(frame.data), again=again)
            self._record("sent", frame)
            if not again:
                self._session[frame.key.session_id] = frame.sequence
                self.sent += 1
                self.payload_bytes += len(frame.data)

    def acknowledge(self, session_id: bytes, up_to_sequence: int, count: int) -> None:
        """So many frames, the last of them `up_to_sequence`, are done with."""
        if count:
            # An earlier run of the node may have sent some that this one has not.
            before = max(0, up_to_sequence - self._session[session_id])
            self.sent += min(count, before)
            self._session[session_id] += before
            self.acked += count
            self._metrics.acknowledged(count)
            self._history.record("acked", session=session_id.hex(), up_to=up_to_sequence)

    def fail(self, session_id: bytes, sequence: int, reason: str) -> None:
        """The decoder reported a frame as an error; its acknowledgement follows."""
        self.failed += 1
        self._metrics.failed(reason)
        self._history.record("failed", session=session_id.hex(), sequence=sequence, reason=reason)

    def discard(self, frame: Numbered, why: DropReason) -> None:
        """A numbered frame was given up; the decoder certainly did not decode it."""
        self.sent -= self.was_sent(frame)
        self.drops[why] += 1
        self._metrics.dropped(why, 1)
        self._record("discarded", frame)

    def lose(self, frame: Numbered) -> None:
        """A frame was in flight when the decoder lost its memory."""
        self.unknown += 1
        self._metrics.unknown()
        self._record("unknown", frame)

    def event(self, event: str, **facts: Any) -> None:
        """Anything else worth a line in the history."""
        self._history.record(event, **facts)

    def _record(self, event: str, frame: Numbered, **facts: Any) -> None:
        if self._history.enabled:
            self._history.record(event, session=frame.key.session_id.hex(), sequence=frame.sequence, **facts)
