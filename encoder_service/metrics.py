"""Prometheus metrics of a camera node; docs/METRICS.md says what each means and what to do when it moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, get_args

from prometheus_client import Counter, Histogram, Info

from ndsc.service.metrics import SECONDS_BUCKETS, Readings, new_registry

Outcome = Literal["captured", "sent", "resent", "acknowledged", "failed", "dropped", "unknown"]
Reading = Literal[
    "connected",
    "credit_frames",
    "in_flight_frames",
    "waiting_frames",
    "spool_frames",
    "spool_bytes",
    "spool_full",
    "rate_level",
    "target_bits_per_second",
    "sent_bits_per_second",
    "certificate_expiry_timestamp_seconds",
]

READINGS: Final[dict[Reading, str]] = {
    "connected": "1 while a call is open, else 0",
    "credit_frames": "Frames that the decoder lets be in flight",
    "in_flight_frames": "Frames sent and not acknowledged yet",
    "waiting_frames": "Frames captured that have not been sent",
    "spool_frames": "Frames in the spool",
    "spool_bytes": "Bytes that the spool takes on disk",
    "spool_full": "1 while the spool takes no more frames, else 0",
    "rate_level": "Rate level of the newest frame",
    "target_bits_per_second": "The rate that the node is held to",
    "sent_bits_per_second": "Bits of Frame messages sent, over the last two seconds",
    "certificate_expiry_timestamp_seconds": "When the node's certificate expires, since the Unix epoch",
}
"""What is read when the metrics are looked at, once it is watched: name → meaning."""

_PREFIX: Final = "ndsc_node_"


class NodeMetrics:
    """Counts what happens on a camera node."""

    def __init__(self) -> None:
        self.registry = new_registry()
        self._readings = Readings(self.registry)
        self._frames = self._counter("frames", "Frames by what became of them", "outcome")
        for outcome in get_args(Outcome):
            self._frames.labels(outcome)  # shown from the start, as 0
        self._dropped = self._counter("dropped_frames", "Frames given up, by cause", "why")
        self._failed = self._counter(
            "failed_frames", "Frames that the decoder could not take, by reason", "reason"
        )
        self._sent_bytes = self._counter("sent_bytes", "Payload or image bytes sent, repeats included")
        self._connections = self._counter("connections", "Calls that the decoder opened")
        self._encode = self._histogram("encode_seconds", "Time to code a frame")
        self._round_trip = self._histogram("round_trip_seconds", "A frame sent to its acknowledgement")

    def build(self, *, version: str, rig: str, camera: str, role: str, delivery: str) -> None:
        """Say which release runs, and for which camera."""
        info = Info(f"{_PREFIX}build", "Release and camera", registry=self.registry)
        info.info({"version": version, "rig": rig, "camera": camera, "role": role, "delivery": delivery})

    def watch(self, name: Reading, read: Callable[[], float]) -> None:
        """Show what `read` gives whenever the metrics are looked at; it is called on the event loop."""
        self._readings.watch(_PREFIX + name, READINGS[name], read)

    def captured(self) -> None:
        """A frame was captured."""
        self._frames.labels("captured").inc()

    def coded(self, seconds: float) -> None:
        """A frame was coded, in so much time."""
        self._encode.observe(seconds)

    def sent(self, size_bytes: int, *, again: bool) -> None:
        """A frame was sent; `again` when an earlier call had sent it already."""
        self._frames.labels("resent" if again else "sent").inc()
        self._sent_bytes.inc(size_bytes)

    def acknowledged(self, count: int) -> None:
        """Frames are done with."""
        self._frames.labels("acknowledged").inc(count)

    def round_trip(self, seconds: float) -> None:
        """A frame was acknowledged so long after it was sent."""
        self._round_trip.observe(seconds)

    def failed(self, reason: str) -> None:
        """The decoder reported a frame as an error; `reason` is a name from the table of errors."""
        self._frames.labels("failed").inc()
        self._failed.labels(reason).inc()

    def dropped(self, why: str, count: int) -> None:
        """Frames were given up."""
        self._frames.labels("dropped").inc(count)
        self._dropped.labels(why).inc(count)

    def unknown(self) -> None:
        """A frame was in flight when the decoder lost its memory."""
        self._frames.labels("unknown").inc()

    def connected(self) -> None:
        """The decoder opened a call."""
        self._connections.inc()

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str) -> Histogram:
        return Histogram(_PREFIX + name, meaning, buckets=SECONDS_BUCKETS, registry=self.registry)
