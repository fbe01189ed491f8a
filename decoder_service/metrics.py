"""Prometheus metrics of the decoder; docs/METRICS.md says what each means and what to do when it moves."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Literal, get_args

from prometheus_client import Counter, Histogram, Info

from decoder_service.batching import Run
from decoder_service.streams import StreamKey
from ndsc.service.errors import reason_name
from ndsc.service.metrics import SECONDS_BUCKETS, Readings, new_registry
from ndsc.v1 import catalog_pb2, types_pb2
from ndsc.v1.types_pb2 import ErrorReason, SideInformationUse

Outcome = Literal["received", "decoded", "failed", "abandoned", "dropped", "stored", "duplicate"]
Stage = Literal["unpack", "pair", "wait", "network", "write", "store"]
Reading = Literal[
    "open_cameras",
    "open_side_streams",
    "credit_used_frames",
    "subscribers",
    "side_information_frames",
    "side_information_bytes",
    "archive_frames",
    "archive_side_frames",
    "archive_waiting_frames",
    "archive_side_frames_lost",
    "archive_bytes",
    "serving",
]

READINGS: Final[dict[Reading, str]] = {
    "open_cameras": "Camera sessions with an open call",
    "open_side_streams": "Side-information streams with an open call",
    "credit_used_frames": "Frames of all open calls that are not acknowledged yet",
    "subscribers": "Subscribe calls under way",
    "side_information_frames": "Side-information frames held in memory",
    "side_information_bytes": "Bytes of side information held in memory",
    "archive_frames": "Compressed frames in the archive, a few seconds ago",
    "archive_side_frames": "Side-information frames in the archive, a few seconds ago",
    "archive_side_frames_lost": "Side-information frames let go of for want of room, though a frame may need them",
    "archive_waiting_frames": "Stored frames that wait to be decoded, a few seconds ago",
    "archive_bytes": "Bytes in use in the archive, a few seconds ago",
    "serving": "1 when the decoder's health is SERVING, else 0",
}
"""What is read when the metrics are looked at, once it is watched: name → meaning."""

_PREFIX: Final = "ndsc_decoder_"
_KINDS: Final = {
    catalog_pb2.STREAM_KIND_CAMERA: "camera",
    catalog_pb2.STREAM_KIND_SIDE_INFORMATION: "side_information",
}


class DecoderMetrics:
    """Counts what happens in the decoder. Its methods belong to the event loop.

    Strangers choose the names of rigs and cameras, so series are kept for at most `max_streams` streams, 8 for
    each; beyond it those of the stream that has been quiet longest go.
    """

    def __init__(self, *, max_streams: int) -> None:
        self.registry = new_registry()
        self._readings = Readings(self.registry)
        self._max_streams = max_streams
        self._streams: OrderedDict[tuple[str, str, str], None] = OrderedDict()
        stream = ("kind", "rig", "camera")
        self._frames = self._counter("frames", "Frames by what became of them", *stream, "outcome")
        self._payload_bytes = self._counter("payload_bytes", "Payload or image bytes received", *stream)
        self._failed = self._counter("failed_frames", "Frames that failed, by reason", "reason")
        self._refused = self._counter("refused_calls", "Calls refused or broken off, by reason", "reason")
        self._pairings = self._counter("pairings", "Frames by how side information served them", "outcome")
        self._missed = self._counter("subscriber_missed_frames", "Pictures that slow subscribers missed")
        self._stages = self._histogram(
            "stage_seconds", "Time of a frame in each stage", SECONDS_BUCKETS, "stage"
        )
        self._age = self._histogram("frame_age_seconds", "Arrival of a frame to its picture", SECONDS_BUCKETS)
        self._capture_age = self._histogram(
            "capture_age_seconds",
            "Capture of a frame to its picture, where a clock is disciplined",
            SECONDS_BUCKETS,
        )
        self._offset = self._histogram(
            "side_information_offset_seconds",
            "Time between the captures of a frame and of the side information used",
            SECONDS_BUCKETS,
        )
        self._batches = self._histogram(
            "batch_frames", "Frames decoded in one run of the network", (1, 2, 4, 8, 16, 32, 64, 128, 256)
        )

    def build(self, *, version: str, provider: str) -> None:
        """Say which release runs, and where its networks do."""
        info = Info(f"{_PREFIX}build", "Release and execution provider", registry=self.registry)
        info.info({"version": version, "provider": provider})

    def watch(self, name: Reading, read: Callable[[], float]) -> None:
        """Show what `read` gives whenever the metrics are looked at; it is called on the event loop."""
        self._readings.watch(_PREFIX + name, READINGS[name], read)

    def received(self, key: StreamKey, size_bytes: int) -> None:
        """A frame came in; `size_bytes` of payload or image."""
        self._count(key, "received")
        self._payload_bytes.labels(*_labels(key)).inc(size_bytes)

    def decoded(self, key: StreamKey, decode_us: int, capture_time_us: int | None) -> None:
        """A frame became a picture, `decode_us` after it arrived.

        `capture_time_us`, since the Unix epoch, is None where no NTP or PTP disciplines the camera's clock.
        """
        self._count(key, "decoded")
        self._age.observe(decode_us / 1e6)
        if capture_time_us is not None:
            self._capture_age.observe(time.time() - capture_time_us / 1e6)

    def held(self, key: StreamKey) -> None:
        """A side-information frame can be used."""
        self._count(key, "decoded")

    def stored(self, key: StreamKey, *, fresh: bool) -> None:
        """A frame is in the archive; it was there before unless it is `fresh`."""
        self._count(key, "stored" if fresh else "duplicate")

    def failed(self, key: StreamKey, reason: ErrorReason) -> None:
        """A frame could not be taken or decoded."""
        self._count(key, "failed")
        self._failed.labels(reason_name(reason)).inc()

    def abandoned(self, key: StreamKey, count: int) -> None:
        """Frames were in flight when a call broke off."""
        self._count(key, "abandoned", count)

    def dropped(self, key: StreamKey, count: int) -> None:
        """A node reported frames that it gave up."""
        self._count(key, "dropped", count)

    def paired(self, key: StreamKey, use: SideInformationUse) -> None:
        """Side information for a frame was looked for."""
        outcome = types_pb2.SideInformationOutcome.Name(use.outcome)
        self._pairings.labels(outcome.removeprefix("SIDE_INFORMATION_OUTCOME_").lower()).inc()
        if use.outcome == types_pb2.SIDE_INFORMATION_OUTCOME_PAIRED:
            self._offset.observe(abs(use.offset_us) / 1e6)

    def stage(self, stage: Stage) -> AbstractContextManager[object]:
        """Measures the time inside `with`."""
        return self._stages.labels(stage).time()

    def ran(self, run: Run) -> None:
        """The network ran once."""
        self._batches.observe(len(run.waited_s))
        self._stages.labels("network").observe(run.network_s)
        for waited_s in run.waited_s:
            self._stages.labels("wait").observe(waited_s)

    def refused(self, reason: ErrorReason) -> None:
        """A call was refused or broken off."""
        self._refused.labels(reason_name(reason)).inc()

    def missed(self, count: int) -> None:
        """A slow subscriber missed pictures."""
        self._missed.inc(count)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, meaning, labels, registry=self.registry)

    def _histogram(self, name: str, meaning: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(_PREFIX + name, meaning, labels, buckets=buckets, registry=self.registry)

    def _count(self, key: StreamKey, outcome: Outcome, count: int = 1) -> None:
        if not count:
            return
        stream = _labels(key)
        if stream not in self._streams:
            for each in get_args(Outcome):
                self._frames.labels(*stream, each)  # shown from the start, as 0
        self._streams[stream] = None
        self._streams.move_to_end(stream)
        if len(self._streams) > self._max_streams:
            quiet, _ = self._streams.popitem(last=False)
            self._payload_bytes.remove(*quiet)
            for each in get_args(Outcome):
                self._frames.remove(*quiet, each)
        self._frames.labels(*stream, outcome).inc(count)


def _labels(key: StreamKey) -> tuple[str, str, str]:
    return _KINDS[key.kind], key.rig, key.camera
