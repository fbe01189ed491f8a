"""Cameras and side information that cost next to nothing: what they send is made beforehand.

They keep to the contract as nodes do: credit, the oldest of two waiting frames given up, and counted.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc.aio

from ndsc.codec.bitstream import CompressedFrame
from ndsc.service.timestamps import to_timestamp
from ndsc.v1 import types_pb2
from ndsc.v1.frame_stream_pb2 import Frame, Open, StreamFramesRequest
from ndsc.v1.frame_stream_pb2_grpc import FrameStreamServiceStub
from ndsc.v1.side_information_pb2 import (
    SideInformationFrame,
    SideInformationOpen,
    StreamSideInformationRequest,
)
from ndsc.v1.side_information_pb2_grpc import SideInformationServiceStub
from ndsc.v1.types_pb2 import Image

RIG: Final = "load"
SIDE: Final = "y"
WAITING_FRAMES: Final = 2
# Without it all channels to one address share a connection, which real cameras do not.
_OPTIONS: Final = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


@dataclass(frozen=True)
class Timetable:
    """When frames are captured; the same for all, as in a rig with one trigger."""

    epoch_us: int
    """Of the first frame, since the Unix epoch."""
    fps: float
    frames: int

    def capture_time_us(self, index: int) -> int:
        """Of frame `index`, from 0."""
        return self.epoch_us + round(index * 1_000_000 / self.fps)

    async def wait_for(self, index: int) -> None:
        """Until frame `index` is captured."""
        await asyncio.sleep(max(0.0, self.capture_time_us(index) / 1e6 - time.time()))


@dataclass
class Traffic:
    """What became of one stream's frames."""

    sent: int = 0
    dropped: int = 0
    reported_drops: int = 0
    """Those that a later frame told the decoder of."""
    acked: int = 0
    failed: int = 0
    acked_us: list[int] = field(default_factory=list)
    """When, since the Unix epoch."""
    ages_ms: list[float] = field(default_factory=list)
    """From capture to acknowledgement: decoded (cameras) or held (side information)."""


class Stream:
    """One call. Subclasses say which, and what its messages are."""

    def __init__(self, address: str, name: str, timetable: Timetable) -> None:
        self.name = name
        self.traffic = Traffic()
        self._address = address
        self._timetable = timetable
        self._waiting: deque[int] = deque()
        self._in_flight: deque[tuple[int, int]] = deque()  # (sequence, capture time)
        self._credit_frames = 0
        self._changed = asyncio.Event()
        self._captured_all = False

    async def run(self) -> Traffic:
        """Open, stream to the end of the timetable, wait for the acknowledgements. Raises AioRpcError."""
        async with grpc.aio.insecure_channel(self._address, options=_OPTIONS) as channel:
            call = self._call(channel)
            await call.write(self._open())
            opened = (await call.read()).opened
            self._credit_frames = opened.credit.max_frames
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._capture())
                tasks.create_task(self._send(call))
                tasks.create_task(self._receive(call))
        return self.traffic

    async def _capture(self) -> None:
        for index in range(self._timetable.frames):
            await self._timetable.wait_for(index)
            self._waiting.append(index)
            if len(self._waiting) > WAITING_FRAMES:
                self._waiting.popleft()
                self.traffic.dropped += 1
            self._changed.set()
        self._captured_all = True
        self._changed.set()

    async def _send(self, call: Any) -> None:
        while not (self._captured_all and not self._waiting):
            await self._changed.wait()
            self._changed.clear()
            while self._waiting and len(self._in_flight) < self._credit_frames:
                index = self._waiting.popleft()
                self.traffic.sent += 1
                capture_time_us = self._timetable.capture_time_us(index)
                self._in_flight.append((self.traffic.sent, capture_time_us))
                dropped_before = self.traffic.dropped - self.traffic.reported_drops
                self.traffic.reported_drops = self.traffic.dropped
                await call.write(self._frame(index, capture_time_us, dropped_before))
        await call.done_writing()

    async def _receive(self, call: Any) -> None:
        while (answer := await call.read()) is not grpc.aio.EOF:
            match answer.WhichOneof("message"):
                case "ack":
                    now_us = time.time_ns() // 1000
                    while self._in_flight and self._in_flight[0][0] <= answer.ack.up_to_sequence:
                        _, capture_time_us = self._in_flight.popleft()
                        self.traffic.acked += 1
                        self.traffic.acked_us.append(now_us)
                        self.traffic.ages_ms.append((now_us - capture_time_us) / 1000)
                    self._credit_frames = answer.ack.credit.max_frames
                    self._changed.set()
                case "error":
                    self.traffic.failed += 1

    def _call(self, channel: grpc.aio.Channel) -> Any:
        raise NotImplementedError

    def _open(self) -> Any:
        raise NotImplementedError

    def _frame(self, index: int, capture_time_us: int, dropped_before: int) -> Any:
        raise NotImplementedError


class CameraStream(Stream):
    """A camera session that sends the same few payloads again and again."""

    def __init__(
        self,
        address: str,
        name: str,
        timetable: Timetable,
        payloads: Sequence[CompressedFrame],
        *,
        side_information: bool,
    ) -> None:
        super().__init__(address, name, timetable)
        self._payloads = payloads
        self._side_information = side_information
        self._last_us = timetable.epoch_us

    def _call(self, channel: grpc.aio.Channel) -> Any:
        return FrameStreamServiceStub(channel).StreamFrames()

    def _open(self) -> StreamFramesRequest:
        frame = self._payloads[0]
        return StreamFramesRequest(
            open=Open(
                rig=RIG,
                camera=self.name,
                session_id=secrets.token_bytes(16),
                bitstream_id=frame.bitstream_id,
                delivery=types_pb2.DELIVERY_LIVE,
                geometry=types_pb2.Geometry(width=frame.width, height=frame.height),
                clock=types_pb2.CLOCK_SYNTHETIC,
                side_information_streams=[SIDE] if self._side_information else [],
                capture_epoch=to_timestamp(self._timetable.epoch_us),
                next_sequence=1,
            )
        )

    def _frame(self, index: int, capture_time_us: int, dropped_before: int) -> StreamFramesRequest:
        frame = self._payloads[index % len(self._payloads)]
        delta_us, self._last_us = capture_time_us - self._last_us, capture_time_us
        return StreamFramesRequest(
            frame=Frame(
                capture_delta_us=delta_us,
                rate_level=frame.rate_level,
                payload=frame.payload,
                dropped_before=dropped_before,
            )
        )


class SideStream(Stream):
    """A side-information camera that sends the same few pictures again and again."""

    def __init__(self, address: str, timetable: Timetable, images: Sequence[Image]) -> None:
        super().__init__(address, SIDE, timetable)
        self._images = images

    def _call(self, channel: grpc.aio.Channel) -> Any:
        return SideInformationServiceStub(channel).StreamSideInformation()

    def _open(self) -> StreamSideInformationRequest:
        image = self._images[0]
        return StreamSideInformationRequest(
            open=SideInformationOpen(
                rig=RIG,
                camera=SIDE,
                session_id=secrets.token_bytes(16),
                geometry=types_pb2.Geometry(width=image.width, height=image.height),
                clock=types_pb2.CLOCK_SYNTHETIC,
                next_sequence=1,
            )
        )

    def _frame(self, index: int, capture_time_us: int, dropped_before: int) -> StreamSideInformationRequest:
        return StreamSideInformationRequest(
            frame=SideInformationFrame(
                sequence=self.traffic.sent,
                capture_time=to_timestamp(capture_time_us),
                image=self._images[index % len(self._images)],
                dropped_before=dropped_before,
            )
        )
