"""A camera node at work: source → capture thread → coding thread → uplink."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc.aio
import structlog

from encoder_service.capture import CaptureQueue, start_capture
from encoder_service.settings import EncoderSettings
from encoder_service.uplink import Call, Request, SessionError, TooLargeError, Uplink
from ndsc.codec.errors import NdscError
from ndsc.service.channel import open_channel
from ndsc.service.settings import is_loopback
from ndsc.sources import Source, SourceFrame, open_source
from ndsc.v1 import types_pb2
from ndsc.v1.types_pb2 import Clock

_CLOCKS: Final = {
    "unsynchronized": types_pb2.CLOCK_UNSYNCHRONIZED,
    "ntp": types_pb2.CLOCK_NTP,
    "ptp": types_pb2.CLOCK_PTP,
    "synthetic": types_pb2.CLOCK_SYNTHETIC,
}


@dataclass(frozen=True)
class Prepared:
    """A frame ready to be sent."""

    request: Request
    payload_bytes: int
    """What counts against the credit: entropy-coded bytes and their CRC, or the coded image."""
    frame_bytes: int
    """Size of the frame's message."""


class Role(Protocol):
    """What a node does with frames, and in which messages it sends them."""

    def call(self, channel: grpc.aio.Channel) -> Call:
        """A new call."""

    def heartbeat(self) -> Request:
        """What shows the decoder that the node is alive."""

    def open(self, source: Source, session_id: bytes, clock: Clock) -> Request:
        """The session's first message."""

    def prepare(self, frame: SourceFrame, sequence: int, dropped_before: int) -> Prepared:
        """Code a frame. Blocks."""


class Node:
    """One run of one session, from the handshake to the last acknowledgement.

    Every captured frame is accounted for: captured = sent + dropped, and sent = acked + in flight.
    """

    def __init__(self, settings: EncoderSettings, make_role: Callable[[EncoderSettings], Role]) -> None:
        self._settings = settings
        self._make_role = make_role
        self._session_id = os.urandom(16)
        self._log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__).bind(
            rig=settings.rig, camera=settings.camera, session=self._session_id.hex()[:8]
        )
        self._source: Source | None = None
        self._queue: CaptureQueue | None = None
        self._uplink: Uplink | None = None
        self._stopped = False
        self._in_hand = 0
        self._given_up = 0
        self._reported_drops = 0
        self._payload_bytes = 0
        self._frame_bytes = 0
        self._coding_s = 0.0

    @property
    def streaming(self) -> bool:
        """Whether the session has been opened."""
        return self._queue is not None

    async def run(self, on_streaming: Callable[[], Awaitable[None]]) -> None:
        """Connect, stream until the source ends or `stop`, wait for the acknowledgements.

        `on_streaming` is awaited once the session is open. Raises SourceError, SessionError, and what the
        role raises for frames and bundles that it cannot use.
        """
        settings = self._settings
        role = await asyncio.to_thread(self._make_role, settings)
        async with open_channel(settings.decoder) as channel:
            try:
                await self._connect(channel)
                self._source = await asyncio.to_thread(
                    open_source,
                    settings.source,
                    fps=settings.fps,
                    epoch_us=settings.epoch,
                    loop=settings.loop,
                    realtime=settings.pace == "realtime",
                    limit=settings.limit,
                    live_timeout_s=settings.source_timeout_s,
                )
                clock = _CLOCKS[settings.clock or self._source.clock]
                opening = role.open(self._source, self._session_id, clock)
                self._uplink = Uplink(
                    role.call(channel),
                    heartbeat=role.heartbeat(),
                    address=settings.decoder,
                    on_end=self._abandon,
                    log=self._log,
                )
                await self._uplink.open(opening, settings.handshake_timeout_s)
                self._queue = CaptureQueue(
                    settings.queue_frames, lossless=settings.pace == "credit", on_end=self._uplink.wake
                )
                self._log.info(
                    "streaming",
                    decoder=settings.decoder,
                    source=settings.source,
                    width=self._source.width,
                    height=self._source.height,
                )
                await on_streaming()
                start_capture(self._source, self._queue)
                await self._pump(role, self._source, self._queue, self._uplink)
            finally:
                if self._source is not None:
                    self._source.close()
                if self._queue is not None:
                    self._queue.end(discard=True)
                if self._uplink is not None:
                    await self._uplink.close()

    def stop(self) -> None:
        """Capture no more; `run` then finishes. Frames that wait are still sent, but dropped in real time."""
        self._stopped = True
        if self._source is not None:
            self._source.close()
        if self._queue is not None:
            self._queue.end(discard=self._settings.pace == "realtime")

    def summary(self) -> dict[str, Any]:
        """The session's account so far, ready for JSON."""
        queue, uplink = self._queue, self._uplink
        sent = uplink.sent if uplink else 0
        return {
            "role": self._settings.role,
            "rig": self._settings.rig,
            "camera": self._settings.camera,
            "session": self._session_id.hex(),
            "captured": queue.captured if queue else 0,
            "sent": sent,
            "acked": uplink.acked if uplink else 0,
            "failed": uplink.failed if uplink else 0,
            "dropped": self._dropped() + self._in_hand,
            "payload_bytes": self._payload_bytes,
            "frame_bytes": self._frame_bytes,
            "encode_ms": round(1000 * self._coding_s / sent, 3) if sent else None,
        }

    async def _connect(self, channel: grpc.aio.Channel) -> None:
        settings = self._settings
        if not is_loopback(settings.decoder):
            self._log.warning("frames go to another machine without encryption", decoder=settings.decoder)
        try:
            async with asyncio.timeout(settings.handshake_timeout_s):
                await channel.channel_ready()
        except TimeoutError:
            raise SessionError(
                f"no decoder answers at {settings.decoder}: start it with `ndsc serve decoder`, or "
                f"give its address with --decoder"
            ) from None

    async def _pump(self, role: Role, source: Source, queue: CaptureQueue, uplink: Uplink) -> None:
        """Send frames while there are any, then wait for all acknowledgements."""
        failure: NdscError | None = None
        try:
            while await queue.wait() and not uplink.draining:
                # The credit comes first, so that the frame is as fresh as can be when it is coded.
                if await self._credit(queue, uplink, 1) and (frame := queue.take()) is not None:
                    self._in_hand = 1
                    await self._send(role, frame, queue, uplink)
        except SessionError:
            raise
        except NdscError as error:  # what was sent before is still finished
            failure = error
        cut_off = uplink.draining and not self._stopped
        source.close()
        queue.end(discard=True)
        await uplink.finish(self._settings.drain_seconds)
        if failure is not None:
            raise failure
        if cut_off:
            raise SessionError(
                f"the decoder at {self._settings.decoder} shut down; every frame it took is acknowledged; "
                f"start this node again when it is back"
            )

    async def _send(self, role: Role, frame: SourceFrame, queue: CaptureQueue, uplink: Uplink) -> None:
        dropped = self._dropped()
        start_s = time.perf_counter()
        prepared = await asyncio.to_thread(
            role.prepare, frame, uplink.next_sequence, dropped - self._reported_drops
        )
        coding_s = time.perf_counter() - start_s
        try:
            covered = await self._credit(queue, uplink, prepared.payload_bytes)
        except TooLargeError as error:
            if self._settings.pace == "credit":
                raise
            self._log.warning("frame dropped", name=frame.name, reason=str(error))
            covered = False
        self._in_hand = 0
        if not covered:
            self._given_up += 1
            return
        self._reported_drops = dropped
        self._coding_s += coding_s
        self._payload_bytes += prepared.payload_bytes
        self._frame_bytes += prepared.frame_bytes
        self._log.debug("frame", sequence=uplink.next_sequence, payload_bytes=prepared.payload_bytes)
        await uplink.send(prepared.request, prepared.payload_bytes)

    async def _credit(self, queue: CaptureQueue, uplink: Uplink, payload_bytes: int) -> bool:
        """Wait for credit: while frames come, and `drain_seconds` more. False: there is nothing to send."""
        if await uplink.wait_for_credit(payload_bytes, unless=lambda: queue.ended):
            return True
        patience_s = self._settings.drain_seconds
        try:
            async with asyncio.timeout(patience_s):
                return await uplink.wait_for_credit(
                    payload_bytes, unless=lambda: queue.empty and not self._in_hand
                )
        except TimeoutError:
            raise SessionError(
                f"the decoder at {self._settings.decoder} took no frame for {patience_s:g} s; the last ones "
                f"were not sent"
            ) from None

    def _dropped(self) -> int:
        return self._given_up + (self._queue.dropped if self._queue else 0)

    def _abandon(self) -> None:
        """The decoder takes no more frames: those that wait are dropped."""
        if self._source is not None:
            self._source.close()
        if self._queue is not None:
            self._queue.end(discard=True)
